"""The response to a request for metadata: held until it is whole, then shown without what is too young."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from cloned_proxy.policy.decision import Request
from cloned_proxy.policy.registry import Age, RegistryKind, decide_age
from cloned_proxy.policy.vocabulary import Reason
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.inspection.examiners import HeldFilter, RawFields, ResponseSeen, UnfitError
from cloned_proxy.proxy.registry import npm, pypi
from cloned_proxy.proxy.registry.asked import Asked
from cloned_proxy.proxy.registry.dates import Dates
from cloned_proxy.proxy.registry.encoding import MAX_METADATA, accepts_gzip, decoded, too_large, zipped
from cloned_proxy.proxy.registry.filtered import Filtered, MetadataError
from cloned_proxy.proxy.registry.lookup import filtered
from cloned_proxy.proxy.registry.work import Work


class Shower:
    """One for each process: filters documents beside the event loop."""

    def __init__(
        self, enforcer: Enforcer, note: Callable[[Grant, Dates], None], work: Work, clock: Callable[[], float]
    ) -> None:
        """`note` is told what a document has said about its files."""
        self._enforcer = enforcer
        self._note = note
        self.work: Final = work
        self.clock = clock

    async def show(self, asked: Asked, body: bytes, codings: list[str]) -> Filtered:
        """The document without what is too young. Raises MetadataError."""
        found = await self.work.done(self._filtered, asked, body, codings)
        if not asked.target.whole:
            self._note(asked.admitted.grant, found.dates)
        return found

    def _filtered(self, asked: Asked, body: bytes, codings: list[str]) -> Filtered:
        content, target, registry = decoded(body, codings), asked.target, asked.registry
        judged: dict[str, bool] = {}

        def covered(url: str) -> bool:
            place = url.partition("://")[2].partition("/")[0]
            if place not in judged:
                judged[place] = self.judges(asked, url)
            return judged[place]

        work = pypi.filter_project if target.whole else filtered
        return work(content, target.package, base=asked.url, registry=registry, now=self.clock(), covered=covered)

    def judges(self, asked: Asked, url: str) -> bool:
        """Whether a rule with the same kind of registry judges the caller's request for this URL."""
        try:
            parts = urlsplit(url)
            port = parts.port or 443
        except ValueError:
            return False
        if parts.scheme != "https" or parts.hostname is None:
            return False
        request = Request(parts.hostname, port, "GET", parts.path or "/")
        decision = self._enforcer.outlook(asked.admitted.grant.caller, request)
        rule = decision.rule if decision.passes else None
        return rule is not None and rule.registry is not None and rule.registry.kind is asked.registry.kind

    def turned_away(self, asked: Asked, age: Age) -> UnfitError:
        """Puts metadata that is not shown on record, with what its client is told."""
        grant = asked.admitted.grant
        refusal = self._enforcer.amend(grant, decide_age(grant.decision, age, self.clock()))
        answer = answers.unavailable() if refusal is None else answers.refused(refusal)
        return UnfitError(age.problem or "all of it is too young", answer=answer, cause=f"refused:{Reason.TOO_YOUNG}")


class FilteredMetadata(HeldFilter):
    """One document. The limit holds for what is on the wire; what is decompressed has the same."""

    limit = MAX_METADATA

    def __init__(self, shower: Shower, asked: Asked, response: ResponseSeen) -> None:
        self._shower = shower
        self._asked = asked
        self._codings = [value.decode("latin-1") for value in response.values(b"content-encoding")]

        offers = (value for name, value in asked.admitted.head.fields if name == "accept-encoding")
        # What a rule with `inject` answers is searched for its secret, and so is not compressed.
        self._zips = asked.admitted.injection is None and accepts_gzip(offers)

    @property
    def fields(self) -> RawFields:
        """What the response says of the document that the client gets."""
        asked = self._asked
        simple = asked.registry.kind is RegistryKind.PYPI and not asked.target.whole
        kind = pypi.SIMPLE_JSON.encode("ascii") if simple else b"application/json"
        fields = [(b"Content-Type", b"text/html; charset=utf-8" if asked.wants_html else kind)]
        fields += [(b"Content-Encoding", b"gzip")] if self._zips else []
        return [*fields, (b"Vary", b"Accept, Accept-Encoding"), (b"Cache-Control", b"no-store")]

    async def whole(self, body: bytes) -> bytes:
        """See `HeldFilter`."""
        shown = await self._shown(body)
        return await self._shower.work.done(zipped, shown) if self._zips else shown

    async def _shown(self, body: bytes) -> bytes:
        asked, target = self._asked, self._asked.target
        try:
            found = await self._shower.show(asked, body, self._codings)
        except MetadataError as error:
            raise self.unfit(error) from error
        if found.foreign and not found.kept:
            raise self.unfit(MetadataError(f"its files are on {found.foreign}, for which no rule has 'registry'"))
        if found.dates.files and not found.kept:
            raise self._shower.turned_away(asked, Age(target.package))
        if asked.wants_html:
            return pypi.as_html(found.body, target.package)
        return self._one_version(found) if target.version and not target.whole else found.body

    def _one_version(self, found: Filtered) -> bytes:
        wanted, package = self._asked.target.version, self._asked.target.package
        if (manifest := npm.one_version(found.body, wanted)) is not None:
            return manifest
        dated = next((each for each in found.dates.files.values() if each.version == wanted), None)
        if dated is not None:
            newest = found.dates.newest(self._asked.registry, self._shower.clock())
            raise self._shower.turned_away(self._asked, Age(package, wanted, dated.published, newest))
        answer = answers.own(HTTPStatus.NOT_FOUND, {"error": f"version not found: {wanted}"})
        raise UnfitError("a version that is not there", answer=answer, cause="closed")

    def trailers(self, fields: RawFields) -> RawFields:  # noqa: ARG002  digests and the like, which are not true of it
        """See `HeldFilter`."""
        return []

    def too_long(self) -> UnfitError:
        return self.unfit(too_large())

    def unfit(self, error: MetadataError) -> UnfitError:
        """For metadata that cannot be filtered: its package has no age that anybody knows."""
        return self._shower.turned_away(self._asked, Age(self._asked.target.package, problem=str(error)))
