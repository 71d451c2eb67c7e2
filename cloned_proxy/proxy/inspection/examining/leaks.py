"""Bodies of opened TLS that carry a secret to a host that it is not for. Heads are looked at before the decision."""

from __future__ import annotations

from typing import Final

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.inspection.examining.examiners import (
    Admitted,
    Examiner,
    RawFields,
    ResponseSeen,
    StreamFilter,
    UnfitError,
)
from cloned_proxy.proxy.secrets.leak import LeakError, LeakScanner, LeakWatch


class LeakExaminer(Examiner):
    def __init__(self, leaks: LeakWatch, enforcer: Enforcer) -> None:
        self._leaks: Final = leaks
        self._enforcer: Final = enforcer

    async def request_admitted(self, admitted: Admitted) -> StreamFilter | None:
        scanner = self._leaks.scanner(admitted.head)
        return _Searched(scanner, admitted.grant, self._enforcer) if scanner is not None else None

    def response_came(self, admitted: Admitted, response: ResponseSeen) -> None:
        """What comes back is the business of `EchoExaminer`."""


class _Searched(StreamFilter):
    def __init__(self, scanner: LeakScanner, grant: Grant, enforcer: Enforcer) -> None:
        self._scanner = scanner
        self._grant = grant
        self._enforcer = enforcer

    def feed(self, piece: bytes) -> bytes:
        try:
            return self._scanner.feed(piece)
        except LeakError as error:
            raise self._refused(error) from None

    def rest(self) -> bytes:
        return self._scanner.rest()

    def trailers(self, fields: RawFields) -> RawFields:
        try:
            self._scanner.search(b"\n".join(text for field in fields for text in field))
        except LeakError as error:
            raise self._refused(error) from None
        return fields

    def _refused(self, error: LeakError) -> UnfitError:
        refused = self._grant.decision.denied(Reason.SECRET_LEAK, secret=error.name)
        refusal = self._enforcer.amend(self._grant, refused) or Refusal(self._grant.id, refused)
        cause = f"refused:{Reason.SECRET_LEAK.value}"
        return UnfitError(str(error), answer=answers.refused(refusal), cause=cause)
