"""The borrower's end of `slot_shelf`: a ready slot from the proxy that serves the workspace, and its return."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from cloned_proxy.local.slot_protocol import encode
from cloned_proxy.runner.docker.engine_address import engine_host
from cloned_proxy.runner.namespaces.netns import Namespace
from cloned_proxy.runner.slots.link import ask, connect
from cloned_proxy.runner.values.errors import ProxyLinkError, SlotError


@dataclass(frozen=True, slots=True)
class Lender:
    """Asks for the runs of one process, whose mark is `owner`."""

    workspace: Path
    owner: str

    def borrow(self) -> tuple[str, str, Namespace] | None:
        """Id, holder and namespace of a slot that is this process's own now. None: none is ready."""
        with contextlib.suppress(ProxyLinkError, SlotError, KeyError, TypeError, ValueError):
            with connect(self.workspace) as sock:
                request = encode(op="borrow", owner=self.owner, engine=engine_host())
                found = ask(sock, request, self.workspace).get("slot")
            if found is not None:
                holder = str(found["holder"])
                return str(found["id"]), holder, Namespace.of(holder, int(found["pid"]))
        return None

    def give_back(self, slot_id: str) -> bool:
        """Whether the proxy has it again."""
        with contextlib.suppress(ProxyLinkError), connect(self.workspace) as sock:
            return bool(ask(sock, encode(op="give back", slot=slot_id), self.workspace).get("taken"))
        return False
