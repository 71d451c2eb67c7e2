"""The composition root: what one proxy process consists of, put together in order and taken apart in reverse.

Nothing accepts a connection before every part is ready, and a start that fails half-way closes what it had opened.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.proxy.enforce.tunnels import Tunnels
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.grants.workers import Worker, leads
from cloned_proxy.proxy.plane.choice import FAILED
from cloned_proxy.proxy.serving.assembly import Core, assemble
from cloned_proxy.proxy.serving.control_channel import ControlChannel
from cloned_proxy.proxy.serving.notifier import start_notifier
from cloned_proxy.proxy.serving.options import ServeOptions, find_policy
from cloned_proxy.proxy.serving.probing import Prober
from cloned_proxy.proxy.serving.sandbox_record import SandboxRecord
from cloned_proxy.proxy.serving.sandboxes import open_slot_api
from cloned_proxy.proxy.serving.setup import Setup
from cloned_proxy.proxy.slots.holders import Holders
from cloned_proxy.proxy.slots.standing_slots import open_standing_slots
from cloned_proxy.proxy.transport.listener import BindError, Listener, bind_tcp
from cloned_proxy.store.leases.deadline import uptime
from cloned_proxy.store.policyfile.live_policy import LivePolicy
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.exposition import Exposition
from cloned_proxy.telemetry.wait_metrics import WaitMetrics

if TYPE_CHECKING:
    from cloned_proxy.fleet.signed_policy.replica import FleetPolicy

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Running:
    """A complete process, and how to take it apart."""

    core: Core
    host: Listener
    exposition: Exposition | None
    parts: AsyncExitStack
    proxy: ProxySettings


class Server:
    """One proxy process on the running event loop, from `start` to `stop`."""

    def __init__(
        self,
        workspace: Workspace,
        options: ServeOptions | None = None,
        *,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = uptime,
        worker: Worker | None = None,
    ) -> None:
        """`clock` gives Unix seconds, `uptime` those since boot.

        `worker` is for one of several workers, whose exposition is not its own.
        """
        self.workspace: Final = workspace
        self._options: Final = options or ServeOptions()
        self._clock: Final = clock
        self._uptime: Final = uptime
        self._worker: Final = worker
        self._up: _Running | None = None
        self.prober: Prober | None = None
        """Makes escape probes, where `options.probe` says how and this process takes the sandboxes."""
        self.unused: Final = asyncio.Event()
        """Set when the last holder of a standby proxy has left."""
        self.holders: Final = Holders(
            on_unused=self.unused.set if self._options.standby else None, caretaker=self._options.caretaker
        )
        self._cut: Final = asyncio.Event()
        self._stopping = False
        self._reloads: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Puts everything together and begins to accept.

        Raises StoreError, PolicyError or BindError, with nothing left open.
        """
        async with AsyncExitStack() as parts:
            self.workspace.create()
            config = self.workspace.config()
            policy_file = find_policy(self.workspace, config, self._options.policy_file)
            setup = Setup(parts, self.workspace, config, policy_file, self._clock, self._uptime, self._worker)
            core = await assemble(setup, chosen=self._options.plane)
            if self._options.control is not None:
                core.own.add_address(*self._options.control)
            exposition = self._expose(parts, core)
            listening = self._worker.listening if self._worker is not None else bind_tcp(*self._options.listen)
            parts.callback(listening.close)
            name = host_port(*listening.getsockname()[:2])
            host = Listener(listening, ANONYMOUS, name, header_from=config.listen.networks)
            parts.push_async_callback(core.gate.drain, 0)
            self._up = _Running(core, host, exposition, parts.pop_all(), config.proxy)
        try:
            await self.open(host)
            if leads(self._worker):  # it takes the sandboxes
                open_slot_api(self._up.parts, self.workspace, core, self.holders, address=host.name, clock=self._clock)
                await open_standing_slots(self._up.parts, core.gate, self._options.slots)
                self._begin_probing(core)
            self._open_control_channel()
            if leads(self._worker):
                start_notifier(self._running.parts, self.workspace, policy_file, self._options.log_format)
        except BaseException:
            self._cut.set()
            await self.stop()
            raise

    def _begin_probing(self, core: Core) -> None:
        if self._options.probe is not None:
            self.prober = Prober(self._options.probe, SandboxRecord(core.state.audit, core.metrics).probed)
            self._running.parts.push_async_callback(self.prober.close)

    def _open_control_channel(self) -> None:
        number = self._worker.number if self._worker is not None else 0
        channel = ControlChannel(self.workspace.root, self, worker=number, clock=self._clock)
        try:
            channel.start()
        except BindError as error:
            _log.warning("the control UI cannot see this process", reason=str(error))
            return
        self._running.parts.push_async_callback(channel.close)

    async def stop(self) -> None:
        """Says that it is not ready, serves on for the shutdown delay, and takes everything apart.

        Then it stops accepting, gives open flows the drain time, and cuts the rest. `cut` ends both times.
        """
        if self._up is None or self._stopping:
            return
        self._stopping = True
        gate = self._up.core.gate
        async with self._up.parts:
            draining = asyncio.create_task(_drain_late(gate, self._up.proxy))
            cutting = asyncio.create_task(self._cut.wait())
            await asyncio.wait((draining, cutting), return_when=asyncio.FIRST_COMPLETED)
            for task in (draining, cutting):
                task.cancel()
            await asyncio.gather(draining, cutting, return_exceptions=True)
        self._up = None

    def cut(self) -> None:
        """Ends a drain that is under way: what is still open is cut now."""
        self._cut.set()

    async def reload(self) -> None:
        """Reads the policy file again, as if it had changed."""
        await self._running.core.follower.live.reload()

    def reload_soon(self) -> None:
        """As `reload`, for the handler of a signal, which cannot wait."""
        task = asyncio.ensure_future(self.reload())
        self._reloads.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._reloads.discard)

    async def open(self, listener: Listener) -> None:
        """Accepts on one more listener, such as the one of a sandbox, and never dials it."""
        core = self._running.core
        core.own.add(listener.socket)
        await core.gate.open(listener)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        live = self._running.core.follower.live
        if live.current is None:  # in a fleet that has sent none: the empty policy denies everything, too
            return Policy(source=str(live.path))
        return live.current

    @property
    def live(self) -> LivePolicy | FleetPolicy:
        """The policy, following its file or the fleet."""
        return self._running.core.follower.live

    @property
    def tunnels(self) -> Tunnels:
        """What is open now."""
        return self._running.core.gate.tunnels

    @property
    def address(self) -> str:
        """`host:port` of the host listener."""
        return self._running.host.name

    @property
    def metrics_address(self) -> str | None:
        """`host:port` of `/metrics`, `/healthz` and `/readyz`; None when they are off."""
        exposition = self._running.exposition
        return host_port(*exposition.address) if exposition is not None else None

    @property
    def addresses(self) -> dict[str, str | None]:
        """`host:port` of `proxy`, `control` and `metrics`; None for what is off."""
        shared = self._worker.metrics if self._worker is not None else None
        control = self._options.control
        return {
            "proxy": self.address,
            "control": host_port(*control) if control is not None else None,
            "metrics": host_port(*shared) if shared is not None else self.metrics_address,
        }

    @property
    def waits(self) -> WaitMetrics:
        """For what clients have waited."""
        return self._running.core.metrics.waits

    @property
    def plane(self) -> dict[str, str]:
        """What serves the common case now: `PlaneChoice.as_data`."""
        core = self._running.core
        if core.gate.plane_failed:
            return FAILED
        return core.plane.as_data(behind_balancer=bool(self._running.host.header_from))

    def problems(self) -> tuple[str, ...]:
        """Why this process should get no traffic now; empty when it is ready. Called from another thread, too."""
        if self._stopping:
            return ("stopping",)
        if self._up is None:
            return ("starting",)
        found = list(self._up.core.follower.problems())
        if (failure := self._up.core.state.audit.failure) is not None:
            found.append(failure)
        if not _accepts(self._up.host.socket):
            found.append(f"the listener {self._up.host.name} is lost; restart the proxy")
        return tuple(found)

    @property
    def _running(self) -> _Running:
        if self._up is None:
            raise RuntimeError("the server has not started")
        return self._up

    def _expose(self, parts: AsyncExitStack, core: Core) -> Exposition | None:
        if self._worker is not None:
            if self._worker.metrics is not None:
                core.own.add_address(*self._worker.metrics)
            return None
        if self._options.metrics is None:
            return None
        host, port = self._options.metrics
        try:
            exposition = Exposition((host, port), core.metrics.registry, self.problems)
        except OSError as error:
            raise BindError(
                f"{host_port(host, port)} for metrics: {error.strerror or error}; "
                "stop the program that listens there, or use --metrics HOST:PORT or --metrics off"
            ) from error
        parts.push_async_callback(asyncio.to_thread, exposition.close)
        core.own.add_address(*exposition.address)
        return exposition


async def _drain_late(gate: Gate, settings: ProxySettings) -> None:
    await asyncio.sleep(settings.shutdown_delay_seconds)
    await gate.drain(settings.drain_seconds)


def _accepts(listening: socket.socket) -> bool:
    try:
        return bool(listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
