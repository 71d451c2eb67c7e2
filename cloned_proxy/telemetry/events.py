"""What happened, as values: each becomes one entry of the audit log and one step of the metrics."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from cloned_proxy.policy.terms.vocabulary import Reason


class Kind(enum.StrEnum):
    """How the request came."""

    TUNNEL = "tunnel"
    """A CONNECT whose TLS stays closed."""
    INSPECTED_TUNNEL = "inspected_tunnel"
    """A CONNECT whose TLS is opened because its rule needs methods, paths or injection."""
    INSPECTED_REQUEST = "inspected_request"
    """A request inside such a tunnel."""
    HTTP = "http"
    """A plain HTTP request in absolute form."""


_ID_DIGITS: Final = 24
_ids: list[str] = []
"""Drawn some hundred at a time: a system call for each would cost a denial a twentieth of its time."""
os.register_at_fork(after_in_child=_ids.clear)  # else both would hand out the same ones


def new_decision_id() -> str:
    """96 random bits as 24 hex digits: unique without a counter that workers would have to share."""
    try:
        return _ids.pop()
    except IndexError:
        digits = os.urandom(_ID_DIGITS * 128).hex()
        _ids.extend(digits[at : at + _ID_DIGITS] for at in range(0, len(digits), _ID_DIGITS))
        return _ids.pop()


@dataclass(frozen=True, slots=True)
class DecisionEvent:
    """One decision as it goes on record. Holds no query string, header or body: those may be secrets."""

    id: str
    at: float
    """Unix seconds."""
    kind: Kind
    verdict: str
    """`allow`, `deny` or `report`."""
    reason: str
    tool: str | None
    run: str | None
    host: str
    """Canonical where it could be read, else as written, cut to 255 characters."""
    port: int
    method: str
    path: str
    """The path without the query; "" for a tunnel."""
    rule: str
    """Rule id, "" for none."""
    policy: str
    """Policy version."""
    hint: str
    spends_use: bool = False
    """Whether it took one of its rule's `max_uses`."""
    refused_address: str = ""
    """Only with `address_not_allowed`: the address that the name resolved to. It is for the owner of the log, not for
    callers."""
    amends: str = ""
    """Id of the earlier decision on the same call that this one replaces: a tunnel whose first bytes did not fit."""
    source_address: str = ""
    """The client, as a load balancer of `listen.proxy_protocol_from` has named it; "" where there is none."""

    @property
    def times(self) -> int:
        """How many calls it stands for."""
        return 1

    @property
    def latest(self) -> float:
        """When the last of them was decided (Unix seconds)."""
        return self.at


MANY: Final = "_other"
"""In place of a host: the entry stands for calls that were not recorded one by one."""


@dataclass(frozen=True, slots=True)
class FlowEnd:
    """The end of an allowed flow: refers to its decision."""

    decision: str
    at: float
    tool: str | None
    bytes_up: int
    bytes_down: int
    seconds: float
    cause: str
    """`closed`, `revoked:<reason>`, `idle`, `upstream_error:<phase>`, `drained`, …"""


WHOLE: Final = "closed"
"""The cause of the end of a flow that nobody cut and that did not fail."""


@dataclass(frozen=True, slots=True)
class PolicyEvent:
    """A change of the policy: an edit with who and why, or a reload and its result."""

    at: float
    action: str
    """`edit`, `reload`, `reject`."""
    actor: str
    """`cli:<user>`, `file`, later `device:<name>`."""
    summary: str
    why: str
    policy: str
    """Version after the change."""


@dataclass(frozen=True, slots=True)
class ApprovalEvent:
    """One step of a request for other rules: asked, approved, rejected, expired, or met a conflict."""

    at: float
    action: str
    """`asked`, `received` (from another replica of a fleet), `approved`, `rejected`, `expired`, `conflict`."""
    approval: str
    """Id of the request."""
    actor: str
    """Who did this: `tool:<id>`, `cli:<user>`, `device:<name>`, `clock`."""
    tool: str | None
    """Who asked."""
    summary: str
    """What for: `allow api.example.com:443 for demo@v1`."""
    why: str
    policy: str
    """Version of the policy after it; "" when that is not known."""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """A run of a sandboxed tool that ended, whether or not it asked for anything."""

    at: float
    """Unix seconds of its end."""
    tool: str
    run: str
    """The id of the run, as in the decisions that it caused."""
    result: str
    """One of `sandbox_metrics.RUN_RESULTS`."""
    seconds: float
    start_seconds: float | None
    """How long its container took to start; None when it never did."""
    dry_run: bool
    reason: str
    """Why it did not end well, in the runner's words, never the tool's: those may be secrets. "" for `ok`."""
    command: str = ""
    """What ran, bounded and with what looks like a secret taken out; "" where nobody said."""


@dataclass(frozen=True, slots=True)
class ProbeEvent:
    """An escape probe, whoever made it."""

    at: float
    sealed: bool
    attempts: int
    """0 when the probe could not be run; `failures` says why."""
    controls: int
    seconds: float
    failures: tuple[str, ...]
    """Each attempt or control that did not end as it must."""
    actor: str = "canary"
    """`canary` of `serve`, `cli:<user>` for `verify` in a terminal, `device:<name>` for the control UI's button."""


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Who may use the control UI and API changed, or somebody tried codes until pairing was locked."""

    at: float
    action: str
    """`paired`, `revoked`, `locked`."""
    device: str
    """Id of the device; "" for `locked`."""
    name: str
    actor: str
    """`cli:<user>`, `device:<name>`, `pairing`."""


@dataclass(frozen=True, slots=True)
class IgnoreEvent:
    """A person took a host out of the overview of a tool's blocked calls, or back into it. It opens nothing."""

    at: float
    action: str
    """`ignored`, `shown`."""
    tool: str | None
    host: str
    actor: str
    """`device:<name>`."""
    why: str


@dataclass(frozen=True, slots=True)
class NotifyEvent:
    """A notification of a person that did not arrive."""

    at: float
    channel: str
    """`desktop` or `webhook`."""
    occasion: str
    """`denial` or `request`."""
    about: str
    """Id of the decision or the request."""
    reason: str
    """In our own words: neither the receiver's URL nor its answer, which may be secrets."""
    dropped: int
    """How many others were not tried, because too many were waiting."""


type Event = (
    DecisionEvent
    | FlowEnd
    | PolicyEvent
    | ApprovalEvent
    | RunEvent
    | ProbeEvent
    | DeviceEvent
    | IgnoreEvent
    | NotifyEvent
)


@dataclass(frozen=True, slots=True)
class Calls:
    """Decisions that differ in nothing but their id and time."""

    event: DecisionEvent
    count: int
    first: float
    """Unix seconds; all of them are in one hour."""
    last: float


@dataclass(frozen=True, slots=True)
class Entries:
    """What somebody else of this process has put on record: entries in their stored form, and what they count."""

    bodies: list[str]
    calls: list[Calls]


class EntrySource(Protocol):
    """Where entries come from that were not recorded by `AuditSink.record`. Asked on the writer's thread."""

    def wait(self, seconds: float) -> bool:
        """Whether there are entries, waiting so long for one."""

    def take(self) -> Entries:
        """All of them."""

    def suspend(self, *, suspended: bool) -> None:
        """While the log cannot be written nothing may be decided there."""


class AuditUnavailableError(Exception):
    """The event cannot be recorded (disk fails, writer dead): the caller must refuse the request with 503."""


class LeaseUsedUpError(Exception):
    """Other requests, perhaps of another process, took the last use of the rule: the event was not recorded."""

    reason: ClassVar[Reason] = Reason.LEASE_USED_UP


class UseNotCountedError(LeaseUsedUpError):
    """The store of the fleet cannot say whether a use is left, so none is given. The event was not recorded."""

    reason: ClassVar[Reason] = Reason.STORE_UNAVAILABLE


class AuditSink(Protocol):
    """Where events go. Called on the event loop; no method blocks it.

    `owner` is the tool whose request caused the event, None for a caller without a proven name. Nobody is refused
    because the log is slow: before a request is decided its owner is asked to wait, if it is `behind`.
    """

    def denied(self, event: DecisionEvent, *, owner: str | None = None, summary: bool = False) -> str:
        """As `record`, for a denial, and equal ones that wait for the disk become one entry (`RepeatedDecision`).

        Returns the id under which this one is on record. A `summary` of many calls waits a second for more of them.
        """

    def record(self, event: Event, *, owner: str | None = None) -> None:
        """Queues the event, to be durable within 50 ms. Raises AuditUnavailableError."""

    async def commit(self, event: Event, *, uses: int | None = None, owner: str | None = None) -> None:
        """As `record`, and returns when the event is durable on disk.

        With `uses` (the rule's `max_uses`) the event takes one of them in the same transaction. Raises
        LeaseUsedUpError when none is left, and AuditUnavailableError.
        """

    def behind(self, owner: str | None) -> bool:
        """Whether the owner has more than its share of the events that wait for the disk."""

    async def caught_up(self) -> None:
        """Returns when what was queued before is durable. Raises AuditUnavailableError."""
