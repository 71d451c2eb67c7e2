"""Denied calls that become requests for a person, and calls that wait for the answer (`on_deny: ask`, `hold`).

The store blocks on disk, so it is asked in threads. What the event loop needs for a flood of denials is in memory and
bounded: which destinations have been asked for, and how many more calls met the same denial.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

import structlog

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.reasons import MENDABLE
from cloned_proxy.policy.terms.vocabulary import OnDeny, Reason, Verdict
from cloned_proxy.proxy.enforce.question import Denied, PolicySource
from cloned_proxy.proxy.grants.budget import Budgets, LeaseCounts
from cloned_proxy.proxy.grants.fair_share import fair_limits
from cloned_proxy.store.approvals.approval import Approval, Proposal
from cloned_proxy.store.approvals.approval_errors import ApprovalError, RejectedError, TooManyRequestsError
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.approvals.evidence import narrowest_entry
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import ApprovalSettings

_log = structlog.get_logger(__name__)

_MAX_KNOWN: Final = 4096
_MAX_HELD: Final = 256
"""Held calls of all tools in this process."""
_THREADS: Final = 2
_LOOK_SECONDS: Final = 0.1
"""How often a held call looks whether it has its answer."""
_FOLLOW_SECONDS: Final = 0.2
_IDLE_SECONDS: Final = 1.0
_TO_TAKE_EFFECT: Final = 2.0
"""Seconds after an approval for which a held call keeps trying the policy before it gives up."""
_AFTER_FAILURE: Final = 5.0
"""Seconds in which a request that could not be made is not tried again."""
_LONGEST_PAUSE: Final = 60

type _Key = tuple[str, str, int]


class WaitingClient(Protocol):
    """The connection of a held call."""

    @property
    def gone(self) -> bool:
        """Whether the client has left, or has said that it will send nothing more: nobody waits for the answer."""

    def watch(self) -> None:
        """Called when a hold begins: from now on `gone` must notice."""


_ASKED_BY_ITSELF: Final = MENDABLE - {Reason.IP_LITERAL}
"""Denials that become a request without anybody asking. An address is asked for by name alone: `cloned-ask`."""


class AskOutcome(NamedTuple):
    """What came of a denied call."""

    pending: str
    """Id of the request that a person may approve; "" for none."""
    passes: bool
    """The policy was changed while the call waited, and allows it now."""


@dataclass(slots=True)
class _Known:
    """A destination that was denied and asked for."""

    asked: asyncio.Future[str]
    """The request's id; "" when there is none."""
    until: float = float("inf")
    """Monotonic; then it is asked anew."""
    more: int = 0
    """Denials that the database has not heard of."""
    id: str = ""
    """Id of the request, once `asked` has it; "" again when the request was rejected."""


class Asking:
    """One for each process, on its event loop; `close` ends its threads."""

    def __init__(
        self,
        service: ApprovalService,
        settings: ApprovalSettings,
        *,
        policies: PolicySource,
        leases: LeaseCounts,
        budgets: Budgets,
        clock: Callable[[], float] = time.time,
        flows_per_tool: int | None = None,
        leads: bool = True,
    ) -> None:
        """What the enforcer has, and the store. One of several workers `leads`: it ends what nobody decided in time."""
        self._service = service
        self._policies = policies
        self._leases = leases
        self._budgets = budgets
        self._clock = clock
        self._flows_per_tool = flows_per_tool
        self._settings = settings
        self._leads = leads
        self._known: OrderedDict[_Key, _Known] = OrderedDict()
        self._decided: OrderedDict[str, str] = OrderedDict()
        """State of requests that are not pending any more."""
        self._paused: dict[str, float] = {}
        """Tool to the monotonic time until which no new request of it is tried."""
        self._held: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="approvals")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def concerns(policy: Policy, decision: Decision) -> bool:
        """Whether the denial is one that this tool's policy turns into a request."""
        return (
            decision.tool is not None
            and decision.reason in _ASKED_BY_ITSELF
            and policy.scope_of(decision.tool).on_deny is OnDeny.ASK
        )

    async def answer(self, denial: Denied, client: WaitingClient | None) -> AskOutcome:
        """Opens a request for what was denied, and waits for its answer if the tool's policy says so (`hold`)."""
        caller, scope = denial.caller, denial.policy.scope_of(denial.caller.tool)
        approval_id = await self._denied(denial.policy, caller, denial.decision)
        if not approval_id or not scope.hold:
            return AskOutcome(approval_id, passes=False)
        # While it waits, a call has a place like one that passes: limits and the fair share hold for it.
        waits = replace(denial.decision, verdict=Verdict.ALLOW)
        _, charge = self._budgets.open(waits, caller.tool, fair_limits(scope.limits, self._flows_per_tool))
        if charge is None:
            return AskOutcome(approval_id, passes=False)
        try:
            await self._hold(denial, approval_id, scope.hold, client)
        finally:
            charge.close()
        pending = "" if approval_id in self._decided else approval_id
        return AskOutcome(pending, passes=self._passes(denial))

    def _passes(self, denial: Denied) -> bool:
        """Whether another policy than the one that denied it is in force, and allows the call."""
        now = self._policies.current
        if now is denial.policy:
            return False
        return decide(now, denial.caller, denial.decision.request, self._clock(), self._leases.spent).passes

    async def run[T](self, work: Callable[[], T]) -> T:
        """Calls the store in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _denied(self, policy: Policy, caller: Principal, decision: Decision) -> str:
        """The id of the pending request for what was denied, made now if there is none; "" when it cannot be made."""
        tool, host = caller.tool, decision.host
        if tool is None or host is None:
            return ""
        key, now = (tool, host.text, decision.request.port), time.monotonic()
        known = self._known.get(key)
        if known is not None and now < known.until:
            known.more += 1
            return await asyncio.shield(known.asked)
        if now < self._paused.get(tool, 0.0):
            return ""
        known = self._remember(key)
        try:
            known.id = await self._ask(policy, caller, decision, known)
        finally:
            known.asked.set_result(known.id)
        return known.id

    def _remember(self, key: _Key) -> _Known:
        known = self._known[key] = _Known(asyncio.get_running_loop().create_future())
        self._known.move_to_end(key)
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return known

    async def _ask(self, policy: Policy, caller: Principal, decision: Decision, known: _Known) -> str:
        tool = caller.tool or ""
        entry = narrowest_entry(decision)
        known.until = time.monotonic() + _AFTER_FAILURE
        try:
            approval = await self.run(
                lambda: self._service.ask(
                    tool, Proposal((entry,), tool), policy=policy, origin="denied", run=caller.run
                )
            )
        except TooManyRequestsError as error:
            self._paused[tool] = time.monotonic() + min(error.retry_after, _LONGEST_PAUSE)
            return ""
        except RejectedError:
            known.until = time.monotonic() + _LONGEST_PAUSE
            return ""
        except (ApprovalError, PolicyError, StoreError) as error:
            _log.warning("a denied call could not be made a request", tool=tool, reason=str(error))
            return ""
        known.until = time.monotonic() + self._settings.timeout
        told(approval)
        return approval.id

    async def _hold(self, denial: Denied, approval_id: str, seconds: float, client: WaitingClient | None) -> None:
        """Waits for an answer or for `seconds`; no longer than the client does, and not where too many wait."""
        with self._place(denial.caller.tool or "") as place:
            if not place:
                return
            if client is not None:
                client.watch()
            ends = time.monotonic() + seconds
            while (left := ends - time.monotonic()) > 0 and not (client is not None and client.gone):
                await asyncio.sleep(min(left, _LOOK_SECONDS))
                state = self._decided.get(approval_id, "pending")
                if self._passes(denial) or state in ("rejected", "expired"):
                    return
                if state == "approved":  # the policy follows in a moment, unless what was approved is something else
                    ends = min(ends, time.monotonic() + _TO_TAKE_EFFECT)

    @contextlib.contextmanager
    def _place(self, tool: str) -> Iterator[bool]:
        held = self._held
        if held[tool] >= self._settings.held_per_tool or held.total() >= _MAX_HELD:
            yield False
            return
        held[tool] += 1
        try:
            yield True
        finally:
            held[tool] -= 1
            if not held[tool]:
                del held[tool]

    async def follow(self) -> None:
        """Tells the store what was counted, and learns what was decided; for as long as the process serves."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS if self._held else _IDLE_SECONDS)
            try:
                await self._follow()
                if self._leads:
                    await self.run(self._service.expire)
            except StoreError as error:
                _log.warning("requests cannot be followed; tried again", reason=str(error))
            except Exception:  # noqa: BLE001  it must outlive one fault
                _log.exception("requests cannot be followed; tried again")

    async def _follow(self) -> None:
        known = {k.id: k for k in self._known.values() if k.id}
        if not known:
            return
        counts = {approval_id: k.more for approval_id, k in known.items() if k.more}
        states = await self.run(lambda: self._service.follow(list(known), counts))
        for approval_id, entry in known.items():
            entry.more -= counts.get(approval_id, 0)
            if (state := states.get(approval_id, "expired")) != "pending":
                self._settle(entry, state)
        now = time.monotonic()
        for key, entry in list(self._known.items()):
            if now >= entry.until:
                del self._known[key]

    def _settle(self, entry: _Known, state: str) -> None:
        decided = self._decided
        decided[entry.id] = state
        while len(decided) > _MAX_KNOWN:
            decided.popitem(last=False)
        if state != "rejected":
            entry.until = 0.0  # what was approved or ran out may be asked for anew
            return
        # A no stands as long as the request would have: nobody is asked again for what he has just refused.
        entry.id = ""
        entry.asked = asyncio.get_running_loop().create_future()
        entry.asked.set_result("")


def told(approval: Approval) -> None:
    """Says on the terminal of `serve` that somebody is asked."""
    _log.info(
        "a tool asks for another rule",
        tool=approval.asker,
        request=str(approval.proposal.addition),
        next=f"cloned-proxy approvals show {approval.id}",
    )
