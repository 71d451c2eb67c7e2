"""Egress overview: is the wall standing, what passes, what is refused, and to whom."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.kit import GREEN, ORANGE, RED, board, graph, heat, number, rows, steps, words

DECISIONS = 'cloned_proxy_decisions_total{tool=~"$tool"}'
DENIALS = 'cloned_proxy_decisions_total{tool=~"$tool",verdict="deny",reason=~"$reason"}'
LEASES = 'cloned_proxy_lease_expires_timestamp_seconds{tool=~"$tool"}'
YEARS = 10 * 365 * 86_400
"""Seconds: what is later than that is the +Inf of a tool without a lease."""
BLOCKED = 'cloned_proxy_blocked_hosts_total{tool=~"$tool"}'
# The steps at which a count had changed or begun since the step before; the newest is when the host was last refused.
LAST_SEEN = (
    f"max by (tool, host) (max_over_time(timestamp((({BLOCKED}) unless ({BLOCKED} offset 15s)) "
    f"or (({BLOCKED}) != ({BLOCKED} offset 15s)))[1h:15s])) * 1000"
)


def egress_overview() -> Dashboard:
    made = board(
        "cloned-proxy-egress",
        "cloned-proxy: egress overview",
        "What the tools reach, what they are refused, and whether the policy that says so is the newest one.",
        labels=(("tool", "cloned_proxy_decisions_total"), ("reason", "cloned_proxy_decisions_total")),
    )
    _state(made)
    _traffic(made)
    return made


def _state(made: Dashboard) -> None:
    made.with_panel(
        number(
            "Proxies up", 'sum(up{job="cloned-proxy"})', "Proxies that answer the scrape.",
            levels=steps((None, RED), (1, GREEN)),
        )
    )  # fmt: skip
    made.with_panel(
        number(
            "Policy", "min(cloned_proxy_policy_last_reload_success)",
            "Whether the newest policy file is in force; `cloned-proxy policy check` says what is wrong with it.",
            mapping=words(_1=("in force", GREEN), _0=("last good kept", RED)),
        )
    )  # fmt: skip
    made.with_panel(
        number(
            "Policy loaded", "time() - max(cloned_proxy_policy_last_reload_timestamp_seconds)",
            "How long ago the policy in force was loaded.", unit="s",
        )
    )  # fmt: skip
    made.with_panel(number("Rules", "max(cloned_proxy_policy_rules)", "Rules of the policy in force."))
    made.with_panel(number("Open tunnels", "sum(cloned_proxy_open_tunnels)", "Tunnels that relay now."))
    made.with_panel(
        number(
            "Audit queue", "max(cloned_proxy_audit_queue)",
            "Entries of the log that are not yet on disk. While it is long, whoever fills it waits.",
            levels=steps((None, GREEN), (1000, ORANGE), (5000, RED)),
        )
    )  # fmt: skip


def _traffic(made: Dashboard) -> None:
    made.with_panel(
        graph(
            "Decisions", [(f"sum by (verdict) (rate({DECISIONS}[$__rate_interval]))", "{{verdict}}")],
            "Requests and tunnels decided, by verdict.", unit="reqps", stacked=True,
        )
    )  # fmt: skip
    asked = f"sum by (tool) (rate({DECISIONS}[$__rate_interval]))"
    denied = 'sum by (tool) (rate(cloned_proxy_decisions_total{tool=~"$tool",verdict="deny"}[$__rate_interval]))'
    made.with_panel(
        graph(
            "Block ratio by tool", [(f"({denied} or 0 * {asked}) / ({asked} > 0)", "{{tool}}")],
            "The part of a tool's requests that is refused.", unit="percentunit", highest=1,
        )
    )  # fmt: skip
    made.with_panel(
        rows(
            "Top blocked hosts",
            [(f"topk(50, sum by (tool, host) ({BLOCKED}))", "Refused"), (LAST_SEEN, "Last seen")],
            "Since the proxy started; last seen within the last hour. A tool has at most 100 hosts here, then "
            "`_other`; `cloned-proxy log --denied` has them all.",
            units={"Last seen": "dateTimeFromNow"}, width=14, beside_graph=True,
            links={"host": ("Its calls in the control UI", "live?verdict=deny&host=${__value.raw}")},
        )
    )  # fmt: skip
    made.with_panel(
        graph(
            "Denials by reason", [(f"sum by (reason) (rate({DENIALS}[$__rate_interval]))", "{{reason}}")],
            "Why requests are refused.", unit="reqps", stacked=True, width=10,
        )
    )  # fmt: skip
    made.with_panel(
        graph(
            "Open tunnels by tool", [('sum by (tool) (cloned_proxy_open_tunnels{tool=~"$tool"})', "{{tool}}")],
            "Tunnels that relay, by the tool that opened them.", unit="short",
        )
    )  # fmt: skip
    passed = 'sum by (tool, direction) (rate(cloned_proxy_bytes_total{tool=~"$tool"}[$__rate_interval]))'
    made.with_panel(
        graph(
            "Bytes by tool", [(passed, "{{tool}} {{direction}}")],
            "Relayed, as the tool sees it; counted when a flow ends.", unit="Bps",
        )
    )  # fmt: skip
    waited = "max by (reason) (rate(cloned_proxy_waiting_seconds_total[$__rate_interval]))"
    made.with_panel(
        graph(
            "Clients wait", [(waited, "{{reason}}")],
            "The part of the time in which clients waited: for a place, a descriptor, the log, or to be refused.",
            unit="percentunit", highest=1,
        )
    )  # fmt: skip
    made.with_panel(
        heat("Time to connect", "cloned_proxy_upstream_connect_duration_seconds_bucket", "Connecting to upstreams.")
    )
    made.with_panel(
        heat("Time of a flow", "cloned_proxy_request_duration_seconds_bucket", "From the grant of a flow to its end.")
    )
    cost = (
        "histogram_quantile({q}, sum by (le) (rate(cloned_proxy_decision_duration_seconds_bucket[$__rate_interval])))"
    )
    made.with_panel(
        graph(
            "Time to decide", [(cost.format(q="0.5"), "p50"), (cost.format(q="0.99"), "p99")],
            "Without name resolution.", unit="s",
        )
    )  # fmt: skip
    made.with_panel(
        rows(
            "Leases in use", [(f"min by (tool) ({LEASES} - time()) < {YEARS}", "Ends in")],
            "When the first lease ends that the tool used within an hour; `cloned-proxy list --tool TOOL` shows them.",
            units={"Ends in": "s"}, links={"tool": ("The rules in the control UI", "rules")}, width=12,
            beside_graph=True,
        )
    )  # fmt: skip
