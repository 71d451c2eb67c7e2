"""The slots of one runner: a pool for each network, and the networks that were made for its tools."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Final

from cloned_proxy.local.slot_protocol import Handover
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE, check_current
from cloned_proxy.runner.slots.lender import Lender
from cloned_proxy.runner.slots.networks import SEALED, prepare_network
from cloned_proxy.runner.slots.slots import SlotPool
from cloned_proxy.runner.values.environment import PROXY_PORT
from cloned_proxy.runner.values.errors import SandboxError
from cloned_proxy.runner.values.spec import workspace_mark
from cloned_proxy.telemetry.later import LaterLogger

_log = LaterLogger(__name__)

LLM_PORT: Final = 8080
_HANDOVERS: Final = (Handover(PROXY_PORT), Handover(LLM_PORT, ("127.0.0.1", LLM_PORT)))


class Pools:
    """Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        *,
        workspace: Path,
        owner: str,
        seccomp: str,
        spare: int,
        enter: bool | None,
        lender: Lender | None,
    ) -> None:
        """`lender` has ready slots for the sealed network."""
        self._engine = engine
        self._workspace = workspace
        self._owner = owner
        self._seccomp = seccomp
        self._spare = spare
        self._enter = enter
        self._lender = lender
        self._lock = threading.Lock()
        self._pools: dict[str, SlotPool] = {}
        self._own_networks: set[str] = set()

    def close(self) -> None:
        """Removes every idle slot and the networks made for tools."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()
        for network in self._own_networks:
            with contextlib.suppress(SandboxError):  # another process's slot may be on it; the last one removes it
                self._engine.remove_network(network)

    def for_tool(self, network: str, tool: str) -> SlotPool:
        """The pool of the network that the tool joins; what that leaves open is said. Raises SandboxError."""
        prepared = prepare_network(self._engine, network, tool)
        for warning in prepared.warnings:
            _log.warning(warning)
        if prepared.own:
            self._own_networks.add(prepared.name)
        return self.of(prepared.name)

    def of(self, network: str) -> SlotPool:
        """The pool of a network that exists. Raises SandboxError."""
        with self._lock:
            pool = self._pools.get(network)
            if pool is None:
                check_current(self._engine, HOLDER_IMAGE)
                pool = self._pools[network] = SlotPool(
                    self._engine,
                    run_directory=self._workspace / "run",
                    owner=self._owner,
                    workspace_mark=workspace_mark(self._workspace),
                    image=HOLDER_IMAGE,
                    seccomp=self._seccomp,
                    network=network,
                    handovers=_HANDOVERS,
                    spare=self._spare,
                    enter=self._enter,
                    lender=self._lender if network == SEALED else None,
                )
            return pool
