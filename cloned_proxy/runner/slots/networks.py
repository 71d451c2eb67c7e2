"""Named networks: possible, and labelled with what they leave open (docs/sandbox.md).

The proxy is not on the network: it listens on loopback inside the slot, as always. A second foot in it would give the
host an address there, every container on it a way to the proxy, and the proxy's listener a caller that it could only
tell by a token. So the listener stays the identity, and what is added is whatever the network itself reaches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.errors import SandboxInputError

SEALED: Final = "none"
OWN_PREFIX: Final = "cloned_"
OWN_LABEL: Final = "cloned.network"
_INHIBIT: Final = "com.docker.network.bridge.inhibit_ipv4"


@dataclass(frozen=True, slots=True)
class Network:
    name: str
    own: bool
    warnings: tuple[str, ...]


def prepare_network(engine: Engine, name: str, tool: str) -> Network:
    """The network that a tool's slot joins. Ours (`cloned_…`) is made when missing, one a tool.

    Raises SandboxInputError for a network that does not exist, must never be used, or has our name and is not ours.
    """
    if name == SEALED:
        return Network(SEALED, own=False, warnings=())
    if name == "host" or name.startswith("container:"):
        raise SandboxInputError(
            f"network {name!r} would put the tool beside other programs; use none or a named network"
        )
    if name.startswith(OWN_PREFIX):
        own = f"{name}_{hashlib.sha256(tool.encode()).hexdigest()[:8]}"
        existing = engine.network(own)
        if existing is None:
            engine.create_network(own, options={_INHIBIT: "true"}, labels={OWN_LABEL: tool})
        elif not _is_ours(existing, tool):
            raise SandboxInputError(
                f"network {own} is not as cloned-proxy makes it: `docker network rm {own}`, and run the command again"
            )
        left = "an interface, the names of the engine's DNS, and other runs of this tool that are on it now"
        return Network(own, own=True, warnings=(f"network {own} leaves open: {left}; the default (none) does not",))
    facts = engine.network(name)
    if facts is None:
        raise SandboxInputError(
            f"network {name} does not exist: `docker network create --internal {name}`, or leave --network out (sealed)"
        )
    return Network(name, own=False, warnings=tuple(_open_doors(name, facts)))


def _is_ours(facts: dict[str, Any], tool: str) -> bool:
    labelled = (facts.get("Labels") or {}).get(OWN_LABEL) == tool
    inhibited = (facts.get("Options") or {}).get(_INHIBIT) == "true"
    return labelled and inhibited and bool(facts.get("Internal")) and not facts.get("EnableIPv6")


def _open_doors(name: str, facts: dict[str, Any]) -> list[str]:
    options = facts.get("Options") or {}
    doors = []
    if not facts.get("Internal"):
        doors.append("everything that the host can reach, past the proxy")
    if options.get(_INHIBIT) != "true":
        doors.append("services of this host that listen on all addresses")
    if facts.get("EnableIPv6"):
        doors.append("IPv6")
    doors.append("other containers on it, and the engine's DNS")
    return [f"network {name} leaves open: {door}; the default (none) does not" for door in doors]
