"""The types of the entries of an audit log, and which of them each reader shows.

Names alone, so that a command which prints a log need not load the events. `store.audit.chain` maps each event
to its type.
"""

from __future__ import annotations

from typing import Final

DECISION: Final = "decision"
FLOW_END: Final = "flow_end"

EVENT_TYPES: Final[tuple[str, ...]] = (
    DECISION,
    FLOW_END,
    "policy",
    "approval",
    "run",
    "probe",
    "device",
    "ignore",
    "notify",
)
"""All of them."""
TYPES_OF_TOOLS: Final[tuple[str, ...]] = (DECISION, FLOW_END, "approval", "run", "ignore")
"""Types whose entries name a tool."""
TYPES_IN_THE_UI: Final = frozenset(EVENT_TYPES) - {FLOW_END, "notify"}
"""Types that the control API streams: the end of a flow belongs to its decision, and who reads the page needs no news
of a notification that did not arrive."""
