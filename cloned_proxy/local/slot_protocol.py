"""How a runner hands a slot's listening sockets to the serving process: one datagram a message, JSON and descriptors.

The socket lies in the workspace, mode 0600 in a 0700 directory, and both ends check the other's user id. A slot is
open as long as its connection is: whatever way a runner ends, the kernel tells the serving process.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from cloned_proxy.policy.callers.tool_id import tool_id

SOCKET_PLACE: Final = ("run", "slots.sock")
"""Below the workspace."""
PROTOCOL_VERSION: Final = 2
DRY_RUN_MARK: Final = "dry-"
"""In front of the run's id, and with it on every entry of the log that the run causes."""
MAX_MESSAGE: Final = 131_072
MAX_DESCRIPTORS: Final = 64
_LONGEST_REASON: Final = 500


class SlotProtocolError(Exception):
    """A message that cannot be understood, or a peer that may not speak here."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What one descriptor is for: the proxy's own port in the slot, or a service relayed to `target` of this host."""

    port: int
    target: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class NamesHandover:
    """What makes the slot answer for names: the descriptors behind those of the listeners.

    First the sockets of its name server, UDP and TCP. Then, where the kernel steers every port of the network to one
    socket, that socket and the link that steers; else `spares`: TCP sockets that are not bound yet, one for each port.
    """

    network: str
    """The network of the synthetic addresses, such as 127.128.0.0/9."""
    spares: int = 0
    """0: every port is steered."""

    @property
    def count(self) -> int:
        """How many descriptors."""
        return 2 + (self.spares or 2)


@dataclass(frozen=True, slots=True)
class OpenSlot:
    tool: str
    run: str
    handovers: tuple[Handover, ...]
    command: str = ""
    """What is about to run, by `policy.secrets.redact.redact_command`; for the record."""
    owner: str = ""
    """The mark of the runner's process on its containers (`runner.slots.owner`)."""
    engine: str = ""
    """Where those are: a value of DOCKER_HOST."""
    names: NamesHandover | None = None

    def encode(self) -> bytes:
        listeners = [{"port": h.port, "target": None if h.target is None else list(h.target)} for h in self.handovers]
        names = None if self.names is None else asdict(self.names)
        more = {"command": self.command, "owner": self.owner, "engine": self.engine, "names": names}
        return encode(op="open", tool=self.tool, run=self.run, listeners=listeners, **more)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> OpenSlot:
        """Raises SlotProtocolError."""
        try:
            handovers = tuple(
                Handover(int(item["port"]), None if item["target"] is None else _target(item["target"]))
                for item in body["listeners"]
            )
            tool, run = tool_id(body["tool"]), body["run"]
            command, owner, engine = (str(body.get(name, "")) for name in ("command", "owner", "engine"))
            names = None if body.get("names") is None else _names(body["names"])
        except (KeyError, TypeError, ValueError) as error:
            raise SlotProtocolError(f"the open message is incomplete or wrong: {error}") from error
        if not (isinstance(run, str) and run):
            raise SlotProtocolError("a slot needs a run")
        return cls(tool, run, handovers, command, owner, engine, names)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended, in the runner's words."""

    result: str
    seconds: float
    start_seconds: float | None
    """None when the container never started."""
    reason: str
    """Never the tool's own words. "" for a run that ended well."""

    def encode(self, op: str, **more: str) -> bytes:
        return encode(op=op, **asdict(self), **more)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> RunEnd:
        """Raises SlotProtocolError."""
        try:
            start = body["start_seconds"]
            started = None if start is None else float(start)
            return cls(str(body["result"]), float(body["seconds"]), started, str(body["reason"])[:_LONGEST_REASON])
        except (KeyError, TypeError, ValueError) as error:
            raise SlotProtocolError("the message about the end of a run is incomplete") from error


def _names(value: Any) -> NamesHandover:
    spares = int(value["spares"])
    if not 0 <= spares < MAX_DESCRIPTORS:
        raise ValueError(spares)
    return NamesHandover(str(value["network"]), spares)


def _target(value: Any) -> tuple[str, int]:
    host, port = value
    return str(host), int(port)


def decode(data: bytes) -> dict[str, Any]:
    """One message. Raises SlotProtocolError."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise SlotProtocolError("a message that is not JSON") from error
    if not isinstance(body, dict) or body.get("v") != PROTOCOL_VERSION:
        raise SlotProtocolError("another version of cloned-proxy; restart `cloned-proxy serve`")
    return body


def encode(**fields: Any) -> bytes:
    """One message of this version."""
    return json.dumps({"v": PROTOCOL_VERSION, **fields}).encode()
