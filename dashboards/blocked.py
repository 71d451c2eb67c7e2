"""Blocked calls: from a tool to its hosts and reasons, and from a point of the graph to the id of its decision."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.kit import board, graph, grown, number, rows
from dashboards.records import denied_calls

DENIALS = 'cloned_proxy_decisions_total{tool=~"$tool",verdict="deny",reason=~"$reason"}'
BLOCKED = 'cloned_proxy_blocked_hosts_total{tool=~"$tool"}'


def blocked_calls() -> Dashboard:
    made = board(
        "cloned-proxy-blocked",
        "cloned-proxy: blocked calls",
        "What was refused in the chosen time, by tool, reason and host, and each single call with what would allow it. "
        "The calls come from the control API (data source Infinity), everything else from Prometheus.",
        labels=(("tool", "cloned_proxy_decisions_total"), ("reason", "cloned_proxy_decisions_total")),
    )
    everything = grown(DENIALS, "$__range")
    made.with_panel(number("Refused", f"sum({everything})", "In the chosen time.", width=6))
    made.with_panel(number("Tools refused", f"count(sum by (tool) ({everything}) > 0)", "In the chosen time.", width=6))
    made.with_panel(
        number("Reasons", f"count(sum by (reason) ({everything}) > 0)", "Different ones, in the chosen time.", width=6)
    )
    made.with_panel(
        number(
            "Hosts refused", f"count(sum by (tool, host) ({grown(BLOCKED, '$__range')}) > 0)",
            "Pairs of tool and host; at most 101 for each tool.", width=6,
        )
    )  # fmt: skip
    rate = f"sum by (tool, reason) (rate({DENIALS}[$__rate_interval]))"
    made.with_panel(
        graph(
            "Refused over time", [(rate, "{{tool}} {{reason}}")],
            "A diamond is a decision: `cloned-proxy log --json | grep ID` is its entry, with host, rule and hint.",
            unit="reqps", exemplars=True, width=24,
        )
    )  # fmt: skip
    made.with_panel(
        rows(
            "By tool and reason", [(f"sum by (tool, reason) ({everything}) > 0", "Refused")],
            "In the chosen time.", width=12,
        )
    )  # fmt: skip
    made.with_panel(
        rows(
            "By tool and host", [(f"sum by (tool, host) ({grown(BLOCKED, '$__range')}) > 0", "Refused")],
            "In the chosen time. `_other` is every host after a tool's first hundred, and every malformed one.",
            width=12, links={"host": ("Its calls in the control UI", "live?verdict=deny&host=${__value.raw}")},
        )
    )  # fmt: skip
    made.with_panel(
        denied_calls(
            "Calls",
            "The newest 500 of the chosen time. The decision leads to the control UI; the hint is what would allow "
            "the call. Tools that the policy does not know have their own names here, not `_unknown`.",
        )
    )
    return made
