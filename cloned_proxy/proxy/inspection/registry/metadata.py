"""The response to a request for metadata: held until it is whole, then shown without what is too young."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.registry import Age, RegistryKind, decide_age
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.examining.examiners import HeldFilter, RawFields, ResponseSeen, UnfitError
from cloned_proxy.proxy.inspection.examining.held import HeldBodies, HeldBody
from cloned_proxy.proxy.inspection.registry import npm, pypi
from cloned_proxy.proxy.inspection.registry.asked import Asked
from cloned_proxy.proxy.inspection.registry.dates import Dates
from cloned_proxy.proxy.inspection.registry.encoding import MAX_METADATA, accepts_gzip, decoded, too_large, zipped
from cloned_proxy.proxy.inspection.registry.filtered import Filtered, MetadataError, Piece
from cloned_proxy.proxy.inspection.registry.lookup import filtered
from cloned_proxy.proxy.inspection.registry.work import Work


class _Made(NamedTuple):
    body: bytes | None
    """None where nothing can be shown."""
    dates: Dates
    foreign: str


class Shower:
    """One for each process: filters documents beside the event loop."""

    def __init__(
        self,
        enforcer: Enforcer,
        note: Callable[[Grant, Dates], None],
        work: Work,
        bodies: HeldBodies,
        clock: Callable[[], float],
    ) -> None:
        """`note` is told what a document has said about its files."""
        self._enforcer = enforcer
        self._note = note
        self._work = work
        self._turn = asyncio.Lock()
        self.bodies: Final = bodies
        self.clock = clock

    def note(self, asked: Asked, dates: Dates) -> None:
        """Remembers what a document has said. The JSON of a project says nothing of files that the index dates."""
        if not asked.target.whole:
            self._note(asked.admitted.grant, dates)

    async def made(self, held: HeldBody, work: Callable[[], _Made]) -> _Made:
        """What is shown of a document. What comes out may be larger than what went in, so it waits for room, too."""
        while True:
            await held.room()
            async with self._turn:
                if not held.may_grow:
                    continue  # that of the one before has taken it
                made = await self._work.done(work)
                held.note(len(made.body or b""))
                return made

    def filtered(self, asked: Asked, body: bytes, codings: list[str]) -> Filtered:
        """The document without what is too young: beside the event loop. Raises MetadataError."""
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
        self.held: HeldBody = shower.bodies.body(asked.admitted.grant.caller.tool)
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
        try:
            made = await self._shower.made(self.held, lambda: self._made(body))
        except MetadataError as error:
            raise self.unfit(error) from error
        self._shower.note(self._asked, made.dates)
        if made.body is not None:
            return made.body
        if made.foreign:
            raise self.unfit(MetadataError(f"its files are on {made.foreign}, for which no rule has 'registry'"))
        raise self._without(made.dates)

    def _made(self, body: bytes) -> _Made:
        """All of the work on one document at once, so that no other one is held in memory beside it."""
        asked, target = self._asked, self._asked.target
        found = self._shower.filtered(asked, body, self._codings)
        shown: Sequence[Piece] | None = found.pieces
        if not found.kept and (found.foreign or found.dates.files):
            shown = None
        elif asked.wants_html:
            shown = (pypi.as_html(found.body, target.package),)
        elif target.version and not target.whole:
            manifest = npm.one_version(found.body, target.version)
            shown = None if manifest is None else (manifest,)
        foreign = "" if found.kept else found.foreign
        if shown is None:
            return _Made(None, found.dates, foreign)
        return _Made(zipped(shown) if self._zips else b"".join(shown), found.dates, foreign)

    def _without(self, dates: Dates) -> UnfitError:
        """For a version that is not shown, or for a package of which none is."""
        wanted, package = self._asked.target.version, self._asked.target.package
        dated = next((each for each in dates.files.values() if each.version == wanted), None)
        newest = dates.newest(self._asked.registry, self._shower.clock())
        if not newest:
            return self._shower.turned_away(self._asked, Age(package))
        if dated is not None:
            return self._shower.turned_away(self._asked, Age(package, wanted, dated.published, newest))
        answer = answers.own(HTTPStatus.NOT_FOUND, {"error": f"version not found: {wanted}"})
        return UnfitError("a version that is not there", answer=answer, cause="closed")

    def trailers(self, fields: RawFields) -> RawFields:  # noqa: ARG002  digests and the like, which are not true of it
        """See `HeldFilter`."""
        return []

    def too_long(self) -> UnfitError:
        return self.unfit(too_large())

    def unfit(self, error: MetadataError) -> UnfitError:
        """For metadata that cannot be filtered: its package has no age that anybody knows."""
        return self._shower.turned_away(self._asked, Age(self._asked.target.package, problem=str(error)))
