"""The policy of a fleet on one machine: what is signed, newer than all before, and valid comes in force, nothing else.

Where the source is away the last policy is served on; before the first one everything is denied; with `max_staleness`
everything is denied after so long without news.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import EnvelopeError, Refused
from cloned_proxy.fleet.signed.statement import NOTHING, Number, Statement, open_statement, parse_number
from cloned_proxy.fleet.signed_policy.kept import Kept, Shelf
from cloned_proxy.fleet.signed_policy.last_heard import LastHeard
from cloned_proxy.fleet.signed_policy.narrowing import NarrowingFile
from cloned_proxy.fleet.signed_policy.source import Source
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.leases.deadline import uptime as since_boot
from cloned_proxy.store.policyfile.live_policy import LivePolicy, LoadError, beside_traffic
from cloned_proxy.store.policyfile.policy_file import policy_from_bytes
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.workspaces.presets import PresetShelf
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.fleet_metrics import FleetMetrics

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Accepted:
    statement: Statement
    envelope: bytes
    policy: Policy


class FleetPolicy:
    """Implements `proxy.enforce.question.PolicySource` and stands where `LivePolicy` does; also `source.Taker`."""

    def __init__(
        self,
        workspace: Workspace,
        settings: FleetSettings,
        source: Source,
        *,
        local: LivePolicy | None = None,
        metrics: FleetMetrics | None = None,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = since_boot,
        leads: bool = True,
    ) -> None:
        """`local` is the policy file that narrows. One of several workers `leads`, and writes what people look at."""
        self.path: Final = workspace.fleet_policy
        self.on_change: Callable[[Policy], None] = lambda _policy: None
        """Called after each swap."""
        self.on_reject: Callable[[LoadError], None] = lambda _error: None
        """Called once for each new refusal."""
        self.on_denying: Callable[[], None] = lambda: None
        """Called when everything begins to be denied: what is open must go."""
        self.on_state: Callable[[], None] = lambda: None
        """Called when there is something new to tell the fleet."""
        self.current: Policy | None = None
        self.last_error: LoadError | None = None
        self.loaded_at: float | None = None
        self.raw = b""
        """The text of the policy in force."""
        self.number = NOTHING
        self.sha256 = ""
        self.source: Final = source
        self.trust: Final = Trust(settings.trust)
        self._settings = settings
        self._floor = NOTHING if settings.min_version is None else parse_number(settings.min_version)
        self._shelf = Shelf(workspace)
        self._local: Final = NarrowingFile(local)
        self._metrics = metrics
        self._clock = clock
        self._heard: Final = LastHeard(self._shelf, settings.max_staleness, clock=clock, uptime=uptime)
        self._leads = leads
        self._kept = Kept()
        self._fleets: Policy | None = None
        self._unkept: _Accepted | None = None
        self._stale = False
        self._taking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes the last good policy from the disk, then listens to the source. Raises StoreError."""
        self._shelf.create()
        self._kept = await asyncio.to_thread(self._shelf.load)
        await self._local.start(on_change=self._compose, on_reject=self.on_reject)
        self._heard.resume()
        self._stale = self._heard.is_too_long_ago()
        if self._kept.envelope:
            await self._resume()
        await self.source.start(self)
        self._task = asyncio.create_task(self._keep_looking())
        self._look()

    async def stop(self) -> None:
        """Stops listening; the policy stays in force."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.source.close()
        await self._local.stop()

    async def reload(self) -> None:
        """Asks the source now (SIGHUP)."""
        await self._local.reload()
        await self.source.read()

    def problems(self) -> tuple[str, ...]:
        """Why it denies everything, has not on disk what is in force, or narrows nothing; empty when it is well."""
        name = self._settings.name
        found: list[str] = []
        if self._fleets is None:
            found.append(f"no policy of the fleet {name} was ever received: everything is denied; {self._why()}")
        elif self._stale:
            found.append(f"the fleet {name} was not heard within `max_staleness`: everything is denied; {self._why()}")
        if self._unkept is not None:
            found.append(f"version {self.number} of the fleet's policy is in force, but could not be kept on disk")
        found.extend(self._local.problems())
        return tuple(found)

    @property
    def age(self) -> float:
        """Seconds since the source said that the policy in force is the newest; infinite: never.

        How long ago it was published is another thing, and counts for nothing.
        """
        return self._heard.age

    @property
    def denying(self) -> bool:
        return self.current is None

    def heard(self) -> None:
        """The source says that the policy in force is the newest."""
        if self._fleets is None:
            return
        self._heard.now()
        if self.last_error is not None and isinstance(self.last_error, EnvelopeError):
            self.last_error = None  # what was refused is no longer offered
        if self._stale:
            self._look()

    async def offer(self, raw: bytes) -> bool:
        """Puts a newer policy in force; whether what the envelope holds is in force now."""
        async with self._taking:
            try:
                with beside_traffic():
                    accepted = await asyncio.to_thread(self._examine, raw)
            except EnvelopeError as error:
                self.refuse(error)
                return False
            except Exception as error:  # noqa: BLE001  whatever an envelope broke, it is not in force
                _log.exception("an envelope could not be looked at")
                self.refuse(EnvelopeError(Refused.FORMAT, f"it could not be looked at ({type(error).__name__})"))
                return False
            if accepted is not None:
                await self._keep(accepted)
                self._put_in_force(accepted)
            self.heard()
            if accepted is not None and self._leads:
                await asyncio.to_thread(self._show, accepted.statement)
            return True

    def _examine(self, raw: bytes) -> _Accepted | None:
        """What is to come in force; None when that is so already. Runs in a thread. Raises EnvelopeError."""
        statement = open_statement(raw, self._settings.name, self.trust)
        if statement.number < self._floor:
            raise EnvelopeError(
                Refused.ROLLBACK,
                f"it is version {statement.number}, and `fleet: {{min_version}}` is {self._floor}; publish a newer one",
            )
        self._kept.check(statement)
        if self._fleets is not None and statement.number == self.number:
            return None
        try:
            policy = policy_from_bytes(
                statement.policy,
                source=str(self.path),
                now=self._clock(),
                presets=PresetShelf().with_pending(statement.presets),
            )
        except (PolicyError, StoreError) as error:
            raise EnvelopeError(Refused.POLICY, f"version {statement.number}: {error}") from error
        return _Accepted(statement, raw, policy)

    async def _keep(self, accepted: _Accepted) -> None:
        """On disk before it is in force, so that no restart knows less.

        Where the disk is full it comes in force all the same: what it takes back must not go on, and a store that
        brings an older one after a restart only delays news. It is tried again until it is kept.
        """
        try:
            await asyncio.to_thread(self._shelf.keep, accepted.statement, accepted.envelope)
        except StoreError as error:
            _log.error("the fleet's policy comes in force, but could not be kept", reason=str(error))
            self._unkept = accepted
        else:
            self._unkept = None

    def _put_in_force(self, accepted: _Accepted) -> None:
        statement = accepted.statement
        self._kept = Kept(statement.number, statement.sha256, accepted.envelope)
        self.number, self.sha256, self.raw = statement.number, statement.sha256, statement.policy
        self.last_error = None
        self.loaded_at = self._clock()
        self._fleets = accepted.policy
        _log.info(
            "policy of the fleet in force", fleet=self._settings.name, number=str(self.number), author=statement.author
        )
        if self._metrics is not None:
            self._metrics.in_force(*self.number)
        self._compose()
        self.on_state()

    def _compose(self) -> None:
        """What is decided by, of what the fleet and this machine say."""
        if self._fleets is None or self._stale:
            self.current = None
            return
        self.current = self._local.narrowed(self._fleets)
        self.on_change(self.current)

    async def _resume(self) -> None:
        """Puts the last good policy in force, if its signature still counts."""
        try:
            accepted = await asyncio.to_thread(self._examine, self._kept.envelope)
        except EnvelopeError as error:
            self.refuse(error)
            return
        if accepted is not None:
            self._put_in_force(accepted)
            if self._leads:
                await asyncio.to_thread(self._show, accepted.statement)

    def refuse(self, error: EnvelopeError) -> None:
        """What is offered does not come in force: counted each time, said once."""
        if self._metrics is not None:
            self._metrics.refused(error.reason)
        if str(error) == str(self.last_error):
            return
        self.last_error = error
        _log.error("a policy of the fleet is refused", reason=error.reason.value, problem=str(error))
        self.on_reject(error)

    def _show(self, statement: Statement) -> None:
        try:
            self._shelf.show(statement)
        except (StoreError, OSError) as error:
            _log.warning("commands that look see an older policy of the fleet", reason=str(error))

    @property
    def why(self) -> str:
        """What stands between this replica and the newest policy; "" when nothing is known to."""
        return " ".join(str(self.last_error).split()) if self.last_error is not None else self.source.problem

    def _why(self) -> str:
        return self.why or "waiting for news"

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                self._look()
                if self._leads:
                    await self._heard.note()
                if self._unkept is not None:
                    async with self._taking:
                        await self._keep_again()
            except StoreError:
                continue  # `problems` says what is not on the disk; it is tried again
            except Exception:  # noqa: BLE001  whatever broke, `max_staleness` holds on
                _log.exception("what becomes of the fleet's policy could not be looked after; tried again")

    async def _keep_again(self) -> None:
        if (unkept := self._unkept) is not None:
            await asyncio.to_thread(self._shelf.keep, unkept.statement, unkept.envelope)
            self._unkept = None
            _log.info("the fleet's policy is kept on disk", number=str(unkept.statement.number))

    def _look(self) -> None:
        stale = self._heard.is_too_long_ago()
        if stale is not self._stale:
            self._stale = stale
            self._compose()
            self.on_state()
            if stale:
                _log.error("the fleet was not heard for too long: everything is denied", reason=self._why())
                self.on_denying()
        if self._metrics is not None:
            self._metrics.state(connected=self.source.connected, age=self.age, denying=self.denying)


def number_text(number: Number) -> str:
    """For people: `1.12`, or `none`."""
    return str(number) if number != NOTHING else "none"
