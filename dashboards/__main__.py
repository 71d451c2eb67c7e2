"""Writes the dashboards beside this file: `make dashboards`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.blocked import blocked_calls
from dashboards.fleet import fleet
from dashboards.overview import egress_overview
from dashboards.sandbox import sandbox_and_isolation

HERE: Final = Path(__file__).resolve().parent


def generated() -> dict[str, str]:
    """File name and content of each dashboard."""
    made: dict[str, Dashboard] = {
        "egress-overview.json": egress_overview(),
        "blocked-calls.json": blocked_calls(),
        "sandbox-and-isolation.json": sandbox_and_isolation(),
        "fleet.json": fleet(),
    }
    return {
        name: JSONEncoder(sort_keys=True, indent=2).encode(dashboard.build()) + "\n" for name, dashboard in made.items()
    }


if __name__ == "__main__":
    for file, content in generated().items():
        (HERE / file).write_text(content)
