"""How the control process asks a serving process what it does now, and makes it cut a tunnel or probe its sandbox.

One unix socket for each serving process below the workspace, mode 0600 in a 0700 directory; both ends check the other's
user id. One line of JSON asks, one answers. Nothing in here decides or allows anything: the worst that it can do to
traffic is to cut a tunnel, and the worst to the machine is one escape probe after the other.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from cloned_proxy.local.control_client import MAX_ACTOR, MAX_CAUSE, PLACE, sockets_in
from cloned_proxy.local.unix_sockets import short_path
from cloned_proxy.proxy.enforce.tunnels import Tunnel, Tunnels
from cloned_proxy.proxy.serving.probing import Prober
from cloned_proxy.proxy.slots.holders import Holders
from cloned_proxy.proxy.transport.private_socket import accept_own_user, listen_privately
from cloned_proxy.store.policyfile.live_policy import LivePolicy
from cloned_proxy.telemetry.wait_metrics import WaitMetrics

if TYPE_CHECKING:
    from cloned_proxy.fleet.signed_policy.replica import FleetPolicy

_log = structlog.get_logger(__name__)

MAX_TUNNELS: Final = 500
"""At most this many tunnels are listed for one process, the newest."""
_MAX_QUESTION: Final = 4096
_MAX_PEERS: Final = 16
_QUESTION_SECONDS: Final = 5.0
_STALE_SECONDS: Final = 10.0
_LATELY_SECONDS: Final = 60.0
_BACKLOG: Final = 16


class ServingView(Protocol):
    """What a serving process tells about itself."""

    @property
    def live(self) -> LivePolicy | FleetPolicy: ...

    @property
    def tunnels(self) -> Tunnels: ...

    @property
    def prober(self) -> Prober | None: ...

    @property
    def addresses(self) -> dict[str, str | None]: ...

    @property
    def plane(self) -> dict[str, str]: ...

    @property
    def waits(self) -> WaitMetrics: ...

    @property
    def holders(self) -> Holders: ...

    def problems(self) -> tuple[str, ...]: ...


class ControlChannel:
    """One for each serving process, on its event loop."""

    def __init__(self, workspace: Path, view: ServingView, *, worker: int, clock: Callable[[], float]) -> None:
        self._directory = workspace.joinpath(*PLACE)
        self._path = self._directory / f"{worker}-{secrets.token_hex(4)}.sock"
        self._view = view
        self._worker = worker
        self._clock = clock
        self._sock: socket.socket | None = None
        self._peers: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listens. Raises BindError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listen_privately(sock, self._path, backlog=_BACKLOG, clear=lambda: clear_stale(self._directory))
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept)

    async def close(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
            self._path.unlink(missing_ok=True)
        for peer in tuple(self._peers):
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)

    def _accept(self) -> None:
        if self._sock is None:
            return
        sock = accept_own_user(self._sock, connected=len(self._peers), most=_MAX_PEERS)
        if sock is None:
            return
        task = asyncio.get_running_loop().create_task(self._serve(sock))
        self._peers.add(task)
        task.add_done_callback(self._peers.discard)

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MAX_QUESTION)
        try:
            async with asyncio.timeout(_QUESTION_SECONDS):
                line = await reader.readline()
                if line:
                    writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                    await writer.drain()
        except (TimeoutError, ValueError, OSError) as error:
            _log.warning("a question of the control process was not answered", reason=str(error))
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        """Raises ValueError for a question that is none."""
        question = json.loads(line)
        match question:
            case {"op": "status"}:
                return self._status()
            case {"op": "tunnels"}:
                newest = sorted(self._view.tunnels, key=lambda tunnel: -tunnel.grant.since)
                return {"worker": self._worker, "tunnels": [self._told(tunnel) for tunnel in newest[:MAX_TUNNELS]]}
            case {"op": "cut", "id": str(identifier), "cause": str(cause)} if len(cause) <= MAX_CAUSE:
                return {"cut": self._cut(identifier, cause)}
            case {"op": "probing"}:
                return {"probing": await self._view.prober.status() if self._view.prober is not None else None}
            case {"op": "probe", "actor": str(actor)} if len(actor) <= MAX_ACTOR:
                return {"refused": await self._view.prober.start(actor) if self._view.prober is not None else None}
            case _:
                raise ValueError(f"unknown question {str(question)[:100]!r}")

    def _status(self) -> dict[str, Any]:
        live, policy = self._view.live, self._view.live.current
        return {
            "worker": self._worker,
            "standby": self._view.holders.standby,
            "addresses": self._view.addresses,
            "version": policy.version if policy is not None else "",
            "mode": policy.mode.value if policy is not None else "",
            "source": policy.source if policy is not None else str(live.path),
            "rules": len(policy.rules) if policy is not None else 0,
            "loaded_at": live.loaded_at,
            "error": str(live.last_error) if live.last_error is not None else None,
            "problems": list(self._view.problems()),
            "tunnels": len(self._view.tunnels),
            "plane": self._view.plane,
            "waiting": self._view.waits.lately(_LATELY_SECONDS),
        }

    def _told(self, tunnel: Tunnel) -> dict[str, Any]:
        grant = tunnel.grant
        request, rule = grant.decision.request, grant.decision.rule
        inspected = grant.decision.inspect
        return {
            "id": grant.id,
            "tool": grant.caller.tool,
            "host": grant.decision.host.text if grant.decision.host is not None else request.host,
            "port": request.port,
            "rule": rule.id if rule is not None else "",
            "policy": grant.policy.version,
            "since": self._clock() - (time.monotonic() - grant.since),
            # Inside an opened tunnel each request has its own count.
            "bytes_up": None if inspected else grant.charge.bytes_up,
            "bytes_down": None if inspected else grant.charge.bytes_down,
            "inspected": inspected,
        }

    def _cut(self, identifier: str, cause: str) -> bool:
        found = [tunnel for tunnel in self._view.tunnels if tunnel.grant.id == identifier]
        for tunnel in found:
            tunnel.cut_off(cause)
        return bool(found)


def clear_stale(directory: Path) -> None:
    """Removes the sockets of processes that did not end in order. Raises OSError."""
    for path in sockets_in(directory):
        if time.time() - path.lstat().st_mtime < _STALE_SECONDS:
            continue  # perhaps bound a moment ago, and about to listen
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_path(path) as name:
            try:
                probe.connect(name)
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue
