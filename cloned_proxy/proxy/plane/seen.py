"""What is open in the plane, to be shown, cut, and asked whether it still passes."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from cloned_proxy.policy.model.uniform import looks_at_requests
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.plane.library import Snapshot
from cloned_proxy.proxy.plane.verdicts import Published
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.wire.client_hello import ServerNames, Unread
from cloned_proxy.telemetry.events import Kind

_MICROSECOND: Final = 1e-6


class OpenFlow(NamedTuple):
    """A tunnel, or a plain request with its response, as it was at one moment."""

    verdict: int
    id: str
    since: float
    """Monotonic seconds, as `last_byte`."""
    last_byte: float
    up: int
    down: int
    asked: str
    """Method, a space, path and query; "" of a tunnel."""

    def grant(self, published: Published) -> Grant:
        """What it was granted: that of its verdict, which may be for other requests to the host, too."""
        if not self.asked:
            return published.grant
        method, _, path = self.asked.partition(" ")
        return published.grant.for_request(method, path)


def open_flows(native: ctypes.CDLL, plane: int) -> list[OpenFlow]:
    """All of them, of every thread."""
    snapshot = Snapshot()
    native.plane_snapshot(plane, ctypes.byref(snapshot))
    try:
        asked = ctypes.string_at(snapshot.asked, snapshot.asked_length) if snapshot.asked_length else b""
        flows, at = [], 0
        for flow in snapshot.flows[: snapshot.count]:
            end = at + flow.asked_length
            times = flow.since * _MICROSECOND, flow.last_byte * _MICROSECOND
            text = asked[at:end].decode("ascii")
            flows.append(OpenFlow(flow.verdict, bytes(flow.id).hex(), *times, flow.up, flow.down, text))
            at = end
        return flows
    finally:
        native.plane_free_snapshot(ctypes.byref(snapshot))


class PlaneTunnel:
    """A `Tunnel`, as it was seen."""

    def __init__(self, published: Published, flow: OpenFlow, budgets: Budgets, cut: Callable[[str, str], None]) -> None:
        """`cut` gets its id and why."""
        charge = budgets.seen(published.grant.caller.tool, up=flow.up, down=flow.down)
        self._cut: Final = cut
        self._last_byte: Final = flow.last_byte
        self.grant = replace(flow.grant(published), id=flow.id, since=flow.since, charge=charge)
        self.server_names = published.server_names

    def cut_off(self, cause: str) -> None:
        self._cut(self.grant.id, cause)

    def last_byte(self) -> float:
        return self._last_byte


class _Asked(NamedTuple):
    """For `Tunnels.reviewed`."""

    grant: Grant
    server_names: ServerNames | Unread


class Review:
    """What the plane is told of its open flows, in each sweep: how long they may last, and which are to go, and why."""

    def __init__(self, services: GateServices, known: Iterable[Published]) -> None:
        """`known`: each verdict by which something is open."""
        self._tunnels: Final = services.tunnels
        self._lifetime: Final = _microseconds(services.tunnels.max_seconds)
        self._policy: Final = services.enforcer.basis.policies.current
        self.by_request: Final[dict[int, Published]] = {}
        """Verdicts by number whose flows are asked about one by one: the policy looks at more than the host now."""
        self._alike: Final[list[Published]] = []
        for each in known:
            if self._looks_at_requests(each.grant):
                self.by_request[each.number] = each
            else:
                self._alike.append(each)

    def _looks_at_requests(self, grant: Grant) -> bool:
        host = grant.decision.host
        if grant.kind is not Kind.HTTP or self._policy is None or host is None:
            return False
        return looks_at_requests(self._policy, grant.caller.tool, host)

    def lines(self, flows: Iterable[OpenFlow]) -> Iterator[str]:
        """As `plane_review` reads them. `flows` are all that are open, if `by_request` is not empty."""
        for alike in self._alike:
            yield self._line(str(alike.number), self._tunnels.reviewed(alike))
        answered: dict[tuple[int, str], tuple[str, float]] = {}
        for flow in flows:
            published = self.by_request.get(flow.verdict)
            if published is None:
                continue
            case = flow.verdict, flow.asked
            if case not in answered:
                answered[case] = self._tunnels.reviewed(_Asked(flow.grant(published), published.server_names))
            yield self._line(flow.id, answered[case])

    def _line(self, whose: str, answer: tuple[str, float]) -> str:
        cause, idle = answer
        return f"{whose} {_microseconds(idle)} {self._lifetime} {json.dumps(cause) if cause else ''}\n"


def _microseconds(seconds: float) -> int:
    return min(int(seconds * 1e6), 2**62)
