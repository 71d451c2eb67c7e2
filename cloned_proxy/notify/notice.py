"""One notification: what is told, in words that a tool has not chosen."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.store.settings.notify_settings import Occasion

_TYPES: Final = {"denial": "egress.denied", "request": "egress.requested", "decision": "egress.decided"}
_TITLES: Final = {
    "denial": "Egress denied",
    "request": "A tool asks for egress",
    "decision": "A request was decided",
}
_MAX_TEXT: Final = 200
"""Characters of one value: a host name has at most 253, and a tool can choose what it asks for."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A new denial, a new request of a tool, or what became of one."""

    occasion: Occasion
    at: float
    """Unix seconds."""
    id: str
    """Id of the decision or the request. The message's own id is made of it, so that a receiver knows a repetition."""
    tool: str
    host: str
    """"" for a request, whose text says it."""
    port: int
    reason: str
    """For a decision: `approved`, `rejected` or `expired`."""
    what: str
    """For a request: `allow api.example.com:443 for demo@v1`."""
    hint: str
    by: str = ""
    """Who decided."""
    more: int = 0
    """How many others were not told since the last notice, because they were too many."""

    @property
    def title(self) -> str:
        if self.reason == Reason.SECRET_LEAK:
            return "A secret was on its way out"
        return _TITLES[self.occasion]

    @property
    def text(self) -> str:
        """One or two sentences, plain and bounded."""
        if self.occasion == "denial":
            told = f"{plain(self.tool)} was refused {host_port(plain(self.host), self.port)} ({plain(self.reason)})."
        elif self.occasion == "decision":
            told = f"{plain(self.tool)}: {plain(self.what)}: {plain(self.reason)} by {plain(self.by)}."
        else:
            told = f"{plain(self.tool)}: {plain(self.what)}. `cloned-proxy approvals show {plain(self.id)}`"
        return f"{told} And {self.more} more." if self.more else told

    def payload(self) -> bytes:
        """The JSON of a webhook: `type`, `timestamp` and `data` as the form has them, and `text` for chat services."""
        data: dict[str, Any] = {"tool": plain(self.tool), "id": self.id, "more": self.more, "hint": plain(self.hint)}
        if self.occasion == "denial":
            data |= {"host": plain(self.host), "port": self.port, "reason": plain(self.reason)}
        else:
            data |= {"request": plain(self.what)}
        if self.occasion == "decision":
            data |= {"verdict": plain(self.reason), "by": plain(self.by)}
        timestamp = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = {"type": _TYPES[self.occasion], "timestamp": timestamp, "text": self.text, "data": data}
        return json.dumps(message).encode("ascii")


def plain(text: str) -> str:
    """The text on one line, cut to 200 characters, without anything that a terminal or a desktop would act on.

    Control, format (such as those that turn the direction of writing) and private characters become a question mark.
    """
    cut = text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
    return "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else "?" for c in cut)
