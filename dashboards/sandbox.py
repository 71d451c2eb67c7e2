"""Sandbox and isolation: what ran, how it ended, and whether the walls hold."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.kit import GREEN, RED, board, graph, grown, heat, number, rows, states, steps, words
from dashboards.model import model_panels

RUNS = 'cloned_proxy_sandbox_runs_total{tool=~"$tool"}'
FAILURES = 'cloned_proxy_sandbox_runs_total{tool=~"$tool",result!="ok"}'
PROBE = "cloned_proxy_isolation_probe_success"


def sandbox_and_isolation() -> Dashboard:
    made = board(
        "cloned-proxy-sandbox",
        "cloned-proxy: sandbox and isolation",
        "Runs of sandboxed tools, the escape probe, and the local model.",
        labels=(("tool", "cloned_proxy_sandbox_runs_total"),),
    )
    made.with_panel(
        number(
            "Isolation", f"min({PROBE})", "The last escape probe; `cloned-proxy verify` shows each of its attempts.",
            mapping=words(_1=("sealed", GREEN), _0=("a way out", RED)), width=6,
        )
    )  # fmt: skip
    made.with_panel(
        number(
            "LocalAI", 'min(up{job="localai"})', "Whether LocalAI answers the scrape.",
            mapping=words(_1=("up", GREEN), _0=("down", RED)), width=6,
        )
    )  # fmt: skip
    made.with_panel(number("Runs", f"sum({grown(RUNS, '$__range')})", "In the chosen time."))
    made.with_panel(
        number(
            "Failures", f"sum({grown(FAILURES, '$__range')}) or vector(0)", "Runs that did not end with ok.",
            levels=steps((None, GREEN), (1, RED)), width=4,
        )
    )  # fmt: skip
    made.with_panel(
        number("Slots", "sum(cloned_proxy_sandbox_slots)", "Sandboxes that are connected to the proxy now.")
    )
    made.with_panel(
        graph(
            "Runs by result", [(f"sum by (result) (rate({RUNS}[$__rate_interval]))", "{{result}}")],
            "Runs that ended, by how.", unit="ops", stacked=True,
        )
    )  # fmt: skip
    made.with_panel(
        states(
            "Isolation over time", [(PROBE, "{{instance}}")], "Since when the probe finds what it finds.",
            words(_1=("sealed", GREEN), _0=("a way out", RED)),
        )
    )  # fmt: skip
    made.with_panel(
        states(
            "LocalAI over time", [('up{job="localai"}', "{{instance}}")], "Since when it answers its scrape.",
            words(_1=("up", GREEN), _0=("down", RED)),
        )
    )  # fmt: skip
    made.with_panel(
        heat(
            "Time to start", "cloned_proxy_sandbox_start_duration_seconds_bucket",
            "From the request for a tool's container to its start.",
        )
    )  # fmt: skip
    made.with_panel(
        rows(
            "Failures by tool", [(f"sum by (tool, result) ({grown(FAILURES, '$__range')}) > 0", "Runs")],
            "In the chosen time.",
        )
    )  # fmt: skip
    for panel in model_panels():
        made.with_panel(panel)
    return made
