"""One request of an opened tunnel, from its head to the permission to go upstream, whatever its version of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.enforce.asking import WaitingClient
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.inspection.examining.examiners import Admitted, Examiner, Filters, RefusedError, ResponseSeen
from cloned_proxy.proxy.secrets.injection import InjectionError, Injector
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.wire.head import Head, HeadError
from cloned_proxy.telemetry.events import Kind


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A request that goes nowhere, and what its client is told."""

    answer: Answer


class Admission:
    """One for each process."""

    def __init__(self, enforcer: Enforcer, injector: Injector, examiners: Sequence[Examiner], leaks: LeakWatch) -> None:
        self._enforcer: Final = enforcer
        self._injector: Final = injector
        self._examiners: Final = examiners
        self._leaks: Final = leaks

    async def admit(
        self, tunnel: Grant, head: Head, client: WaitingClient
    ) -> tuple[Admitted, Filters | None] | TurnedAway:
        """Decides, fills in what the rule injects, and asks the examiners; with the filter for the request's body.

        `tunnel` is the grant of the CONNECT: its caller is the caller of all that is inside, and no field inside the
        TLS can change it. Whoever gets an Admitted finishes its grant.
        """
        granted = await self._authorise(tunnel, head, client)
        if isinstance(granted, Refusal):
            return TurnedAway(answers.refused(granted))
        try:
            admitted = Admitted(granted, head, self._injector.injection_for(granted))
            found = [await examiner.request_admitted(admitted) for examiner in self._examiners]
        except (InjectionError, RefusedError) as error:
            explanation = str(error) if isinstance(error, RefusedError) else ""
            refused = granted.decision.denied(error.reason)
            if isinstance(error, RefusedError):
                refused = replace(refused, age=error.age)
            return self._taken_back(granted, refused, explanation)
        except BaseException:
            self._enforcer.finish(granted, Reason.INTERNAL_ERROR.value)
            raise
        chain = [one for one in found if one is not None]
        return admitted, Filters(chain) if chain else None

    def examine(self, admitted: Admitted, response: ResponseSeen) -> Filters | None:
        """Shows the examiners the head of a final response. Raises UnfitError."""
        found = [examiner.response_came(admitted, response) for examiner in self._examiners]
        chain = [one for one in found if one is not None]
        return Filters(chain) if chain else None

    def refuse_head(self, tunnel: Grant, error: HeadError) -> Answer:
        """Puts a head or a body that is refused for its form alone on record, and says what to mend."""
        request = error.request if error.request.host else tunnel.decision.request
        refusal = self._enforcer.refuse(tunnel.caller, request, Kind.INSPECTED_REQUEST, error.reason)
        status = error.status if refusal.decision.reason is error.reason else None
        return answers.refused(refusal, status=status, explanation=str(error))

    async def _authorise(self, tunnel: Grant, head: Head, client: WaitingClient) -> Grant | Refusal:
        caller, kind = tunnel.caller, Kind.INSPECTED_REQUEST
        request = Request(head.host, head.port, head.method, head.path)
        if not _same_target(head, tunnel):
            await self._enforcer.breath(caller)
            return self._enforcer.refuse(caller, request, kind, Reason.HOST_HEADER_MISMATCH)
        if secret := self._leaks.in_head(head):
            await self._enforcer.breath(caller)
            return self._leaks.refuse(self._enforcer, caller, kind, head, secret)
        return await self._enforcer.authorise(caller, request, kind, pinned=tunnel.addresses, client=client)

    def _taken_back(self, granted: Grant, refused: Decision, explanation: str) -> TurnedAway:
        refusal = self._enforcer.amend(granted, refused)
        self._enforcer.finish(granted, f"refused:{refused.reason.value}")
        return TurnedAway(answers.refused(refusal or Refusal(granted.id, refused), explanation=explanation))


def _same_target(head: Head, tunnel: Grant) -> bool:
    """The host of the CONNECT must be that of the Host field inside (docs/reasons.md, `host_header_mismatch`)."""
    try:
        return head.port == tunnel.decision.request.port and parse_host(head.host) == tunnel.decision.host
    except HostError:
        return False
