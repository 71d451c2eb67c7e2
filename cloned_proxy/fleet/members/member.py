"""One process of a replica, as the rest of the fleet sees it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
from collections.abc import Callable
from typing import Final

import structlog

from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.members.roster import REPORT_SECONDS, Report, leave, say
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.fleet.signed.keys import SigningKey, load_or_create_key
from cloned_proxy.fleet.signed_policy.replica import FleetPolicy
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.workspaces.workspace import Workspace

_log = structlog.get_logger(__name__)

_SHORT: Final = 6
_LONGEST_PROBLEM: Final = 400


def replica_key(workspace: Workspace) -> SigningKey:
    """The replica's own key, made on first use: what it says of itself can be proven, and it publishes nothing.

    Raises StoreError.
    """
    return load_or_create_key(workspace.fleet_directory / "replica.key")


def replica_name(settings: FleetSettings, key: SigningKey) -> str:
    """What the fleet calls this replica: the setting, else the host and a part of the key's id."""
    host = "".join(each if each.isalnum() or each in "._-" else "-" for each in socket.gethostname())[:100]
    return settings.replica or f"{host.strip('._-') or 'replica'}-{key.id[:_SHORT]}"


class Member:
    """Says how the process is: at each connect, at each change, and every ten seconds."""

    def __init__(self, link: Link, names: Names, policy: FleetPolicy, *, replica: str, worker: int, now: float) -> None:
        self._link = link
        self._names = names
        self._policy = policy
        self._replica = replica
        self._worker = worker
        self._since = now
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.tunnels: Callable[[], int] = lambda: 0
        """How many are open."""
        policy.on_state = self._changed.set
        link.at_connect(self._at_connect)

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_saying())

    async def close(self) -> None:
        """Leaves the roster, where the store is there to be told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._link.connected:
            with contextlib.suppress(StoreAwayError):
                await leave(self._link, self._names, self.report())

    def report(self) -> Report:
        policy = self._policy
        return Report(
            replica=self._replica,
            worker=self._worker,
            epoch=policy.number.epoch,
            version=policy.number.version,
            sha256=policy.sha256,
            age=round(policy.age, 3) if math.isfinite(policy.age) else None,
            denying=policy.denying,
            tunnels=self.tunnels(),
            since=self._since,
            trust=policy.trust.ids,
            problem=self._problem()[:_LONGEST_PROBLEM],
        )

    def _problem(self) -> str:
        """What is wrong here, in one line: with the policy first, then with what else the store has."""
        faults = (f"{name}: {why}" for name, why in sorted(self._link.parts.faults.items()) if why != self._policy.why)
        return " ".join("; ".join(filter(None, (self._policy.why, *faults))).split())

    async def _at_connect(self) -> None:
        self._changed.set()

    async def _keep_saying(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS * random.uniform(0.8, 1.0)):  # noqa: S311  no secret
                    await self._changed.wait()
            self._changed.clear()
            try:
                with self._link.parts.part("replicas", self._names.replicas):
                    await say(self._link, self._names, self.report())
            except StoreAwayError:
                continue  # the link says so, and at the next connect it is said again
            except Exception:  # noqa: BLE001  what one report broke must not end the next
                _log.exception("the fleet could not be told how this replica is")
