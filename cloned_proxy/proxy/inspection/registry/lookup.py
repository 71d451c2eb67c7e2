"""The date of a file that a client asks for, from the metadata of its package: remembered, or asked for now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from cloned_proxy.policy.paths.registry_path import Target, metadata_path
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.registry import Age, Registry, RegistryKind
from cloned_proxy.policy.terms.rule import PatternKind
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.inspection.examining.held import HeldBodies
from cloned_proxy.proxy.inspection.registry import npm, pypi
from cloned_proxy.proxy.inspection.registry.client import MetadataClient, metadata_request
from cloned_proxy.proxy.inspection.registry.dates import Dates, KnownDates, key_of
from cloned_proxy.proxy.inspection.registry.encoding import decoded
from cloned_proxy.proxy.inspection.registry.filtered import AbsentError, Filtered, MetadataError
from cloned_proxy.proxy.inspection.registry.semver import newest as newest_version
from cloned_proxy.proxy.inspection.registry.work import Work
from cloned_proxy.proxy.secrets.injection import InjectionError, Injector
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.telemetry.events import Kind

ACCEPT: Final = {RegistryKind.NPM: "application/json", RegistryKind.PYPI: pypi.SIMPLE_JSON}
"""The one form of each kind's metadata that has dates: npm's abbreviated one has none, nor has PyPI's HTML."""
_HTTPS_PORT: Final = 443


class Index(NamedTuple):
    """Where metadata may be."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class FileAge:
    age: Age
    spelled: str = ""
    """The path and query as the metadata has them, where they are not the plain ones."""


class AgeLookup:
    """One for each process."""

    def __init__(
        self,
        enforcer: Enforcer,
        injector: Injector,
        client: MetadataClient,
        known: KnownDates,
        *,
        work: Work,
        bodies: HeldBodies,
    ) -> None:
        self._enforcer = enforcer
        self._injector = injector
        self._client = client
        self._known = known
        self._work = work
        self._bodies = bodies
        self._answered: set[Index] = set()
        """The registries that have had metadata before: they are asked first."""
        self._locks: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()

    def note(self, grant: Grant, dates: Dates) -> None:
        """Remembers what metadata on its way to a client has said."""
        self._known.put(self._key(grant, _index_of(grant), dates.package), dates)
        self._answered.add(_index_of(grant))

    async def age_of(self, grant: Grant, head: Head, target: Target, now: float) -> FileAge:
        """The age of the file that a granted request asks for; unknown where no index that the caller may ask has it.

        Only the metadata of the package that the path itself names is looked at, so that no other package can vouch
        for the file.
        """
        registry = _registry_of(grant)
        here = _index_of(grant)
        key = key_of(here.host, here.port, target.path)
        problems: list[str] = []
        newest = ""
        for index in self._indexes(grant):
            for ask in (False, True):
                try:
                    dates = await self._dates(grant, head, index, target.package, ask=ask)
                except MetadataError as error:
                    problems.append(str(error))
                    continue
                if dates is None:
                    continue
                newest = newest or dates.newest(registry, now)
                if (found := dates.files.get(key)) is not None:
                    age = Age(target.package, found.version, found.published, newest)
                    return FileAge(age, dates.spelled.get(key, ""))
        problem = problems[0] if problems else "no metadata of it names this file"
        return FileAge(Age(target.package, newest=newest, problem=problem))

    def _indexes(self, grant: Grant) -> list[Index]:
        """The host itself, and the other hosts that the caller has a rule with the same kind of registry for.

        A registry knows its own files best, so it comes first: no other one can vouch for a file that it dates.
        """
        registry, here = _registry_of(grant), _index_of(grant)
        found = dict.fromkeys((here, *self._others(grant, registry)))
        return sorted(found, key=lambda index: (index != here, index not in self._answered))

    def _others(self, grant: Grant, registry: Registry) -> Iterator[Index]:
        policy, tool = grant.policy, grant.caller.tool
        scope = policy.scope_of(tool)
        inherits = tool is None or scope.inherit_global
        for rules in (scope.allow.rules, policy.global_scope.allow.rules if inherits else ()):
            for rule in rules:
                other = rule.registry
                if other is not None and other.kind is registry.kind and rule.pattern.kind is PatternKind.EXACT:
                    for port in sorted(rule.ports):
                        yield Index(rule.pattern.value, port)

    async def _dates(self, grant: Grant, head: Head, index: Index, package: str, *, ask: bool) -> Dates | None:
        """What is known of the package at an index, None when it was not to be asked. Raises MetadataError."""
        key = self._key(grant, index, package)
        if not ask:
            return self._known.get(key)
        seen = self._known.get(key)
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = self._known.get(key)
            if found is not None and (found is not seen or found.absent):
                return found  # somebody has asked while this request was waiting, or there is nothing to ask for
            try:
                found = await self._asked(grant, head, index, package)
                self._answered.add(index)
            except AbsentError:
                found = Dates(package, {}, newest_version, absent=True)
            self._known.put(key, found)
            return found

    async def _asked(self, grant: Grant, head: Head, index: Index, package: str) -> Dates:
        """Raises MetadataError. Another host is asked under a grant of its own: same policy, same address checks."""
        if index == _index_of(grant):
            return await self._fetched(grant, head, package, same_host=True)
        # The path decides nothing yet but which rule of the host it is: that rule knows where its index is.
        index_path = metadata_path(_registry_of(grant), package)
        request = Request(index.host, index.port, "GET", index_path)
        granted = await self._enforcer.authorise(grant.caller, request, Kind.INSPECTED_REQUEST)
        if isinstance(granted, Refusal):
            raise MetadataError(f"{index.host} may not be asked about it ({granted.decision.reason})")
        try:
            return await self._fetched(granted, head, package, same_host=False)
        finally:
            self._enforcer.finish(granted, "closed")

    async def _fetched(self, grant: Grant, head: Head, package: str, *, same_host: bool) -> Dates:
        index, registry = _index_of(grant), _registry_of(grant)
        path = metadata_path(registry, package)
        asking = metadata_request(head, index.host, index.port, path, ACCEPT[registry.kind], same_host=same_host)
        try:
            injection = self._injector.injection_for(grant)
        except InjectionError as error:
            raise MetadataError("the secret of its registry's rule is not to be had") from error
        held = self._bodies.body(grant.caller.tool)
        try:
            body, codings = await self._client.fetch(grant, asking, injection, held)
            return await self._work.done(_dates_in, body, codings, package, url_of(grant, path), registry)
        finally:
            held.note(0)

    @staticmethod
    def _key(grant: Grant, index: Index, package: str) -> tuple[object, ...]:
        return (grant.caller.tool, index, _registry_of(grant).kind, package)


def url_of(grant: Grant, path: str) -> str:
    """The URL of a path on the host of the grant."""
    host, port = grant.decision.host, grant.decision.request.port
    authority = "" if host is None else host.authority
    return f"https://{authority}{path}" if port == _HTTPS_PORT else f"https://{authority}:{port}{path}"


def filtered(
    body: bytes | bytearray,
    package: str,
    *,
    base: str,
    registry: Registry,
    now: float,
    covered: Callable[[str], bool],
) -> Filtered:
    """The metadata of one package, as `ACCEPT` asks for it, without what is too young. Raises MetadataError."""
    if registry.kind is RegistryKind.NPM:
        return npm.filter_packument(body, package, registry=registry, now=now, covered=covered)
    return pypi.filter_simple(body, package, base=base, registry=registry, now=now, covered=covered)


def _dates_in(body: bytes, codings: list[str], package: str, base: str, registry: Registry) -> Dates:
    """Raises MetadataError."""
    content = decoded(body, codings)
    return filtered(content, package, base=base, registry=registry, now=0.0, covered=lambda _url: True).dates


def _index_of(grant: Grant) -> Index:
    host = grant.decision.host
    return Index("" if host is None else host.text, grant.decision.request.port)


def _registry_of(grant: Grant) -> Registry:
    """Raises MetadataError for a grant whose rule has none, which nobody asks about."""
    rule = grant.decision.rule
    if rule is None or rule.registry is None:
        raise MetadataError("no rule with `registry` allows to ask about it")
    return rule.registry
