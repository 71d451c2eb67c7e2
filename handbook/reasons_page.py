"""docs/reasons.md: each reason with what follows from it, from the table that answers, log and UI read."""

from __future__ import annotations

from cloned_proxy.policy.terms.reasons import REASONS
from handbook.reference import intro, table


def reasons_page() -> str:
    """The page as it should be."""
    rows = [
        (
            f"`{reason.value}`",
            row.meaning,
            str(row.status),
            "yes" if row.reportable else "no",
            "yes" if row.mendable else "no",
            row.hint or ("`cloned-proxy allow …`" if row.mendable else ""),
            row.hint_inside or ("ask for it: `cloned-ask`" if row.mendable else ""),
        )
        for reason, row in REASONS.items()
    ]
    heads = ("Reason", "Meaning", "Status", "Reportable", "Mendable", "What to do", "What a tool in a sandbox is told")
    return f"{intro('reasons')}\n{table(heads, rows)}"
