"""docs/threat-model.md: each guard, and the attacks that get through without it, from the tests that carry them out."""

from __future__ import annotations

import ast
from typing import Final

from handbook.fleet_table import ATTACKS, row
from handbook.fleet_table import FAULTS as FLEET_FAULTS
from handbook.reference import intro, table
from handbook.site import ROOT
from tests.e2e.test_broken_builds import INSPECTING, MATCHING
from tests.net.broken_builds import FAULTS, OPEN

ELSEWHERE: Final = {
    "tests/e2e/test_asking.py": "who may ask, whose request it is, our own name, redaction",
    "tests/e2e/test_registries.py": "the age of packages",
    "tests/e2e/test_upstream_proxy.py": "the proxy in front",
    "tests/e2e/test_plane.py": "the native plane, tunnels",
    "tests/proxy/plane/test_plane_plain.py": "the native plane, plain HTTP: each guard taken out of the Rust source",
    "tests/runner/test_outside.py": "ways out of a sandbox, with an open container as the control",
    "tests/runner/project/test_attacks.py": "a writable project",
    "tests/control/test_broken_builds.py": "the control UI and API",
    "tests/fleet/test_broken_builds.py": "the signed policy of a fleet",
    "tests/fleet/test_broken_limits.py": "limits, leases and decisions of a fleet",
    "tests/fleet/test_broken_faults.py": "faults of stores, disks and clocks around a fleet",
    "tests/fleet/leases/test_broken_resuming.py": "counts of leases that begin anew",
}
"""Tests that take guards out beside those of the gate, each with what it is about."""


def threat_page() -> str:
    """The page as it should be."""
    without: dict[tuple[str, ...], list[str]] = {}
    for guards, attacks in (*MATCHING, *INSPECTING):
        found = without.setdefault(guards, [])
        found += [attack for attack in attacks if attack not in found]
    rows = [(" and ".join(guards), "; ".join(attacks)) for guards, attacks in without.items() if guards != OPEN]
    rows.append(("all of them at once", "; ".join(without[OPEN])))
    faults = "\n".join(f"- {fault}" for fault in FAULTS)
    elsewhere = [(what, f"[{path}](../{path})", _first_line(path)) for path, what in ELSEWHERE.items()]
    return (
        f"{intro('threat-model')}\n{table(('Guard that is taken out', 'What gets through then'), rows)}\n"
        f"## Parts that break\n\nWith each of these nothing passes, not even what is allowed:\n\n{faults}\n\n"
        f"{_fleet()}\n"
        f"## Other guards\n\n{table(('Of', 'Test', 'What it says of itself'), elsewhere)}"
    )


def _fleet() -> str:
    attacks = table(("What is tried", "Test", "Where it succeeds, without the guard"), list(map(row, ATTACKS)))
    faults = table(("What goes wrong", "Test", "Where it does harm, without the guard"), list(map(row, FLEET_FAULTS)))
    return f"## Attacks on a fleet, and faults around it\n\n{attacks}\n{faults}"


def _first_line(path: str) -> str:
    said = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
    return " ".join(said.partition("\n\n")[0].split())
