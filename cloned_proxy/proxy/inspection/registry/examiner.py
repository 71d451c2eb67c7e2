"""Where a rule with `registry` acts on the exchanges of an opened tunnel.

A request for metadata is sent on in the one form that can be filtered, and what comes back is filtered. A request for
a file is sent on once its age is known. Both go upstream under the path that was judged, in its one spelling.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Final
from urllib.parse import urljoin

from cloned_proxy.policy.paths.registry_path import PackagePart
from cloned_proxy.policy.terms.registry import Age, decide_age
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.inspection.examining.examiners import Admitted, HeldFilter, RefusedError, ResponseSeen
from cloned_proxy.proxy.inspection.examining.held import HeldBodies
from cloned_proxy.proxy.inspection.registry.asked import Asked
from cloned_proxy.proxy.inspection.registry.client import MetadataClient
from cloned_proxy.proxy.inspection.registry.dates import KnownDates
from cloned_proxy.proxy.inspection.registry.filtered import MetadataError
from cloned_proxy.proxy.inspection.registry.lookup import AgeLookup
from cloned_proxy.proxy.inspection.registry.metadata import FilteredMetadata, Shower
from cloned_proxy.proxy.inspection.registry.work import Work
from cloned_proxy.proxy.secrets.injection import Injector

_EDITING: Final = frozenset({"PUT", "PATCH", "DELETE"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OTHER_READINGS: Final = ("x-http-method", "x-method-override", "x-original-url", "x-rewrite-url")
"""Fields by which a server could be made to see another method or path than the one that was judged."""
_OF_METADATA: Final = frozenset(
    {
        "accept", "accept-encoding", "range", "if-range",
        "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
    }
)  # fmt: skip
"""Whatever a client has kept, and whichever part or form it wants: the whole document is read, and filtered anew."""
_OF_THE_ORIGINAL: Final = (
    b"etag", b"last-modified", b"content-encoding", b"accept-ranges", b"content-type", b"cache-control", b"expires",
    b"age", b"vary", b"content-digest", b"repr-digest", b"digest", b"content-md5",
)  # fmt: skip
"""Fields of a response that are not true of the filtered one."""


class RegistryExaminer:
    """One for each process."""

    def __init__(
        self,
        enforcer: Enforcer,
        injector: Injector,
        client: MetadataClient,
        *,
        clock: Callable[[], float] = time.time,
        bodies: HeldBodies | None = None,
    ) -> None:
        """`clock` gives Unix seconds: the proxy's own time, by which all ages are counted."""
        self._enforcer = enforcer
        work = Work()
        bodies = bodies or HeldBodies()
        self._lookup = AgeLookup(enforcer, injector, client, KnownDates(), work=work, bodies=bodies)
        self._shower = Shower(enforcer, self._lookup.note, work, bodies, clock)
        self._clock = clock

    async def request_admitted(self, admitted: Admitted) -> None:
        """Turns a file that is too young away, and writes what goes upstream for the rest. Raises RefusedError."""
        asked = Asked.by(admitted)
        if asked is None:
            return
        head, part = admitted.head, asked.target.part
        path = head.path
        fields = [(name, value) for name, value in head.fields if not name.startswith(_OTHER_READINGS)]
        fields = [(name, value) for name, value in fields if name != "upgrade"]  # no registry speaks anything else
        if asked.reads_metadata:
            path = asked.path
            if asked.is_filtered:
                fields = [(name, value) for name, value in fields if name not in _OF_METADATA]
                fields += [("accept", asked.accept), ("accept-encoding", "gzip")]
        elif asked.reads_file:
            path = await self._file_path(asked)
        elif part is PackagePart.UNKNOWN or (part is PackagePart.FILE and head.method not in _EDITING):
            problem = f"{head.method} of this path is no request that a client of {asked.registry.kind} makes"
            self._refuse(asked, Age(asked.target.package, problem=problem))
        admitted.forwarded = replace(head, path=path, fields=tuple(fields))

    async def _file_path(self, asked: Asked) -> str:
        if asked.is_exempt:
            return asked.file_path
        found = await self._lookup.age_of(asked.admitted.grant, asked.admitted.head, asked.target, self._clock())
        self._refuse(asked, found.age)
        path, mark, query = (found.spelled or asked.file_path.removesuffix(asked.target.beside)).partition("?")
        return f"{path}{asked.target.beside}{mark}{query}"

    def _refuse(self, asked: Asked, age: Age) -> None:
        """Raises RefusedError unless what has this age may pass; in `report` mode it is put on record alone."""
        grant = asked.admitted.grant
        decision = decide_age(grant.decision, age, self._clock())
        if not decision.passes:
            raise RefusedError(decision.reason, age=age)
        self._enforcer.amend(grant, decision)

    def response_came(self, admitted: Admitted, response: ResponseSeen) -> HeldFilter | None:
        """The filter of metadata. Raises UnfitError for a response that would lead past it."""
        asked = Asked.by(admitted)
        if asked is None or not asked.is_filtered or response.status >= HTTPStatus.BAD_REQUEST:
            return None  # no client takes an error for metadata
        held = FilteredMetadata(self._shower, asked, response)
        if response.status in _REDIRECTS:
            places = [urljoin(asked.url, value.decode("latin-1")) for value in response.values(b"location")]
            if not all(self._shower.judges(asked, place) for place in places):
                raise held.unfit(MetadataError("its metadata has moved to where no rule with 'registry' judges it"))
            return None
        if response.status != HTTPStatus.OK:
            raise held.unfit(MetadataError(f"the registry answered {response.status} when it was asked about it"))
        response.fields = [(name, value) for name, value in response.fields if name.lower() not in _OF_THE_ORIGINAL]
        response.fields += held.fields
        return held if response.has_body else None
