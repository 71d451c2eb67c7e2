"""`TOOL=SOCKET` as it stands on the command line of `serve`."""

from __future__ import annotations

from pathlib import Path

from cloned_proxy.cli.place.arguments import typed
from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.proxy.slots.standing_slots import StandingSlot


def parse_slot(text: str) -> StandingSlot:
    """Raises CommandError with the fix."""
    tool, equals, place = text.partition("=")
    if not equals or not place:
        raise CommandError(f"--slot {text!r}: write TOOL=SOCKET, as in my.tool@v1=/run/slots/mine/8081.sock")
    typed(tool_id, tool, "--slot")
    path = Path(place).absolute()
    if not path.parent.is_dir():
        raise CommandError(f"--slot {text!r}: {path.parent} is no directory; make it, for this user alone")
    return StandingSlot(tool, path)
