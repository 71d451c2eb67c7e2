"""The one registry of open tunnels, and the sweep that cuts those that the policy no longer covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final, Protocol

import structlog

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.deciding.decide import decide_tunnel
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.wire.client_hello import ServerNames, Unread

_log = structlog.get_logger(__name__)


class Reviewed(Protocol):
    """What can be asked whether it still passes."""

    @property
    def grant(self) -> Grant: ...

    @property
    def server_names(self) -> ServerNames | Unread:
        """What its first bytes are: NEED_MORE before they came, NOT_TLS where they are not (or need not be) a hello."""


class Tunnel(Reviewed, Protocol):
    """From the grant on, so that a change of the policy finds a tunnel before its first byte, too."""

    def cut_off(self, cause: str) -> None:
        """Resets both sides at once; the cause goes on record."""

    def last_byte(self) -> float:
        """When the last byte passed, on the clock of `Tunnels`."""


type _Case = tuple[Principal, Request, str, bool, tuple[Address, ...], ServerNames | Unread]


class Tunnels:
    """Tunnels by identity. Everything runs on the event loop."""

    def __init__(
        self,
        review: Callable[[Grant], Decision],
        *,
        idle_seconds: float,
        max_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._review: Final = review
        self._idle: Final = idle_seconds
        self.max_seconds: Final = max_seconds
        self._clock: Final = clock
        """The clock of `Grant.since` and `Tunnel.last_byte`: monotonic."""
        self._open: set[Tunnel] = set()
        self.elsewhere: Callable[[], Sequence[Tunnel]] = lambda: ()
        """The tunnels that the native plane carries and cuts. They are only shown here."""

    def __len__(self) -> int:
        return len(self._open) + len(self.elsewhere())

    def __iter__(self) -> Iterator[Tunnel]:
        return chain(self._open, self.elsewhere())

    def add(self, tunnel: Tunnel) -> None:
        self._open.add(tunnel)

    def discard(self, tunnel: Tunnel) -> None:
        self._open.discard(tunnel)

    def sweep(self) -> None:
        """Cuts what was revoked, has been idle for too long or is too old.

        Thousands of tunnels of one tool to one host are one question: each is asked once a sweep.
        """
        answered: dict[_Case, tuple[str, float]] = {}
        now = self._clock()
        for tunnel in tuple(self._open):
            case = _case_of(tunnel)
            answer = answered.get(case)
            if answer is None:
                answer = answered[case] = self.reviewed(tunnel)
            cause, idle = answer
            if not cause and now - tunnel.last_byte() >= idle:
                cause = "idle"
            if not cause and now - tunnel.grant.since >= self.max_seconds:
                cause = "lifetime"
            if cause:
                _cut_off(tunnel, cause)

    def look_at(self, tunnel: Tunnel) -> None:
        """For one that was not known at the last sweep: cuts it if it is revoked."""
        cause, _ = self.reviewed(tunnel)
        if cause:
            _cut_off(tunnel, cause)

    def reviewed(self, tunnel: Reviewed) -> tuple[str, float]:
        """`revoked:<reason>`, or "" when the tunnel still passes, and how long it may be idle by its rule of now.

        A review that fails revokes.
        """
        try:
            decision = self._review(tunnel.grant)
            if tunnel.server_names is not Unread.NEED_MORE:
                names = None if isinstance(tunnel.server_names, Unread) else tunnel.server_names
                decision = decide_tunnel(decision, names, ssh=tunnel.server_names is Unread.SSH)
        except Exception:  # noqa: BLE001  logged; whatever it was, a tunnel that nobody can vouch for goes
            _log.exception("a tunnel could not be reviewed and is cut")
            return f"revoked:{Reason.INTERNAL_ERROR.value}", self._idle
        idle = idle_seconds(decision, self._idle)
        if not decision.passes:
            return f"revoked:{decision.reason.value}", idle
        if decision.inspect and not tunnel.grant.decision.inspect:
            # A narrower rule wants to see inside a tunnel that is closed to us: the client must come again.
            return f"revoked:{Reason.PROTOCOL_NOT_ALLOWED.value}", idle
        return "", idle


def idle_seconds(decision: Decision, otherwise: float) -> float:
    """How long a flow may be without a byte: its rule's `idle`, else the setting's."""
    rule = decision.rule
    return rule.idle if rule is not None and rule.idle is not None else otherwise


def response_seconds(decision: Decision, otherwise: float) -> float:
    """How long the head of a response may take. Who lets a flow be idle for hours means a slow answer, too."""
    return max(otherwise, idle_seconds(decision, 0.0))


def _cut_off(tunnel: Tunnel, cause: str) -> None:
    try:
        tunnel.cut_off(cause)
    except Exception:  # noqa: BLE001  logged; the others that are to go must not stay for it
        _log.exception("a tunnel could not be cut; the next sweep tries again", cause=cause)


def _case_of(tunnel: Tunnel) -> _Case:
    """All that the answer depends on. The rule stands for itself by its id: it is the use that the flow holds."""
    grant = tunnel.grant
    decision = grant.decision
    rule = decision.rule.id if decision.rule is not None else ""
    return (grant.caller, decision.request, rule, decision.inspect, grant.addresses, tunnel.server_names)
