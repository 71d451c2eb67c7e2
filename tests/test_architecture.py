"""Imports go down, from package to package and from room to room, and the policy touches nothing but values."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout  # it reads the source where it is written

PACKAGE = Path(__file__).parents[1] / "cloned_proxy"
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
LAYERS = (
    "cli", "control", "notify", "fetch", "runner", "proxy", "local", "fleet", "store", "telemetry", "policy",
)  # fmt: skip
ROOMS = {
    "cli": ("warm", "start", "commands", "terminal", "editing", "place", "show"),
    "cli/commands": (
        "workspace", "status", "serving", "rules", "policy", "pipelines", "model", "mcp", "sandbox", "log", "images",
        "doctor", "fleet", "clients", "approvals",
    ),
    "control": (
        "__main__", "http", "process", "endpoints", "app", "openapi", "operation", "sessions", "services", "feed",
        "record", "outlook", "pages", "guard", "errors",
    ),
    "runner": (
        "setup", "mcp", "llm", "pipelines", "probe", "runs", "trust", "slots", "project", "images", "files", "docker",
        "namespaces", "values",
    ),
    "proxy": (
        "serving", "slots", "replica", "gate", "plane", "plain", "tunnel", "inspection", "own", "http1", "secrets",
        "enforce", "upstream", "transport", "wire", "grants",
    ),
    "proxy/inspection": (
        "registry", "engine", "http2", "http1", "requests", "upstream", "connections", "examining", "certificates",
    ),
    "proxy/upstream": ("ways", "places", "chained", "resolver", "lookup", "dial"),
    "fleet": (
        "operating", "audit", "leases", "shares", "tokens", "approvals", "members", "signed_policy", "link", "signed",
    ),
    "store": ("vault", "approvals", "policyfile", "workspaces", "audit", "settings", "leases", "files"),
    "policy": ("reading", "hints", "deciding", "callers", "paths", "model", "terms", "secrets"),
}  # fmt: skip
"""What lies in a folder that has folders, each above those that it may import."""
KNIT = {
    "cli.commands.doctor": [{"checks", "upstream_check"}],
    "cli.editing": [{"editing", "presets"}],
    "fleet.approvals": [{"approval_service", "deciding"}],
    "policy.terms": [{"address", "decision", "host", "network", "network_index", "registry", "rule"}],
    "proxy.inspection.http1": [{"connection", "exchange"}],
    "proxy.inspection.http2": [{"answering", "front"}],
    "proxy.plain": [{"admission", "client", "exchange", "open_exchange", "own", "reach", "websocket"}],
    "proxy.tunnel": [{"client", "gate_services"}],
    "runner.runs": [{"prepared", "slot_run"}],
}
"""Files that name each other, in one room: two ends of one thing, of which one names the other for its type alone."""
STARTED = {
    ("cli.commands.serving.warm_starter", "cli.warm.server"),
    ("proxy.serving.notifier", "notify"),
}
"""Programs that are started by the name of their module from below it: who starts one knows its name alone."""
FULL = 20
"""Things in one folder that a reader still takes in."""
PURE = {"__future__", "cloned_proxy", "idna", "packaging", "pydantic", "pydantic_core", "publicsuffixlist",
        "base64", "binascii",
        "collections", "dataclasses", "datetime", "difflib", "enum", "functools", "hashlib", "hmac", "ipaddress",
        "json",
        "math", "re", "shlex", "types", "typing", "unicodedata", "urllib"}  # fmt: skip


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def _files(layer: str) -> list[Path]:
    return sorted((PACKAGE / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_down(layer: str) -> None:
    above = {f"cloned_proxy.{name}" for name in LAYERS[: LAYERS.index(layer)]}
    wrong = [
        f"{file.relative_to(PACKAGE)}: {name}"
        for file in _files(layer)
        for name in _imports(file)
        if ".".join(name.split(".")[:2]) in above
    ]
    assert wrong == []


def _module(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def _graph() -> dict[str, set[str]]:
    """Each module with those of ours that it imports, for their types alone as well; names without `cloned_proxy.`"""
    modules = {_module(file): file for file in PACKAGE.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, file in modules.items():
        found[module] = set()
        for node in ast.walk(_tree(file)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                names = [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
            ours = [name.removeprefix("cloned_proxy.") for name in names if name.startswith("cloned_proxy.")]
            found[module] |= {name for name in ours if name in modules and name != module}
    return found


def _things(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {
        "__init__"
    }


def _upward(place: str, rooms: tuple[str, ...]) -> list[str]:
    prefix = place.replace("/", ".") + "."
    inside = {module: module.removeprefix(prefix).split(".")[0] for module in _graph() if module.startswith(prefix)}
    return sorted(
        f"{module} imports {other}"
        for module, room in inside.items()
        for other in _graph()[module]
        if other in inside and rooms.index(inside[other]) < rooms.index(room)
    )


@pytest.mark.parametrize("place", ROOMS)
def test_imports_between_rooms_go_down(place: str) -> None:
    assert set(ROOMS[place]) == _things(PACKAGE / place), "the table names what lies there"
    assert _upward(place, ROOMS[place]) == []


def test_nothing_below_the_commands_starts_one_by_its_module() -> None:
    """`python -m cloned_proxy` is the program; a module of the command line in a string would be an import unseen."""
    named = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for layer in LAYERS[1:]
        for file in _files(layer)
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "cloned_proxy.cli" in node.value
    ]
    assert named == []


def test_no_other_module_above_is_named_in_a_string() -> None:
    """An import that is no `import` statement: `python -m NAME`, `import_module(NAME)`."""
    modules = set(_graph())
    named = {
        (_module(file), name)
        for layer in LAYERS
        for file in _files(layer)
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cloned_proxy.")
        if (name := node.value.removeprefix("cloned_proxy.")) in modules
    }
    assert {(module, name) for module, name in named if _is_above(name, module)} == STARTED


def _is_above(other: str, module: str) -> bool:
    """Whether a table puts `other` above `module`: that of the layers, or of the folder in which they part."""
    places = {"": LAYERS} | {place.replace("/", "."): rooms for place, rooms in ROOMS.items()}
    place, theirs, ours = "", other.split("."), module.split(".")
    while theirs and ours and theirs[0] == ours[0]:
        place = f"{place}.{ours[0]}".removeprefix(".")
        theirs, ours = theirs[1:], ours[1:]
    rooms = places.get(place, ())
    if not (theirs and ours and {theirs[0], ours[0]} <= set(rooms)):
        return False
    return rooms.index(theirs[0]) < rooms.index(ours[0])


def test_each_folder_with_folders_has_its_table() -> None:
    folders = {file.parent.parent for layer in LAYERS for file in (PACKAGE / layer).rglob("__init__.py")} - {PACKAGE}
    assert {folder.relative_to(PACKAGE).as_posix() for folder in folders} == set(ROOMS)


def _levels(room: str, arrows: set[tuple[str, str]]) -> int:
    """How far it is down from a room, the room itself included."""
    return 1 + max((_levels(below, arrows) for above, below in arrows if above == room), default=0)


def test_the_figures_of_the_page_are_those_of_the_rooms() -> None:
    rows = re.findall(r"^\| `([a-z/]+)` \|(.* → .*)\|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 6
    assert {place: list(map(int, re.findall(r"→ (\d+)", row))) for place, row in rows} == {
        place: _figures(place) for place, _ in rows
    }


def _figures(place: str) -> list[int]:
    """Things, arrows, levels, and things in circles, of which there are none."""
    prefix = place + "."
    room_of = {module: module.removeprefix(prefix).split(".")[0] for module in _graph() if module.startswith(prefix)}
    pairs = {(room_of[one], room_of[other]) for one in room_of for other in _graph()[one] if other in room_of}
    arrows = {(above, below) for above, below in pairs if above != below}
    return [len(ROOMS[place]), len(arrows), max(_levels(room, arrows) for room in ROOMS[place]), 0]


def test_no_room_is_too_full() -> None:
    folders = [PACKAGE, *(file.parent for file in PACKAGE.rglob("*/__init__.py"))]
    assert {str(folder): len(_things(folder)) for folder in folders if len(_things(folder)) > FULL} == {}


def test_files_name_each_other_only_where_they_are_one_thing() -> None:
    found: dict[str, list[set[str]]] = {}
    for knot in _knots(_graph()):
        room = {module.rpartition(".")[0] for module in knot}
        assert len(room) == 1, f"files of different rooms import each other: {sorted(knot)}"
        found.setdefault(room.pop(), []).append({module.rpartition(".")[2] for module in knot})
    assert {room: sorted(map(sorted, knots)) for room, knots in found.items()} == {
        room: sorted(map(sorted, knots)) for room, knots in KNIT.items()
    }


def _knots(graph: dict[str, set[str]]) -> list[set[str]]:
    """Modules that reach each other, two or more at a time."""
    while loose := [module for module in graph if not graph[module]]:
        graph = {module: others - set(loose) for module, others in graph.items() if module not in loose}
    reached = {module: _reach(graph, module) for module in graph}
    knots = {frozenset({module, *(o for o in reached[module] if module in reached[o])}) for module in graph}
    return [set(knot) for knot in knots if len(knot) > 1]


def _reach(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    left = [start]
    while left:
        for other in graph[left.pop()] - seen:
            seen.add(other)
            left.append(other)
    return seen


def test_the_policy_does_no_io_and_reads_no_clock() -> None:
    used = {name.split(".")[0] for file in _files("policy") for name in _imports(file)}
    assert _files("policy")
    assert used - PURE == set()
    assert not {name for file in _files("policy") for name in _imports(file)} & {"urllib.request", "urllib.robotparser"}
    libraries = {"cloned_proxy", "idna", "packaging", "pydantic", "pydantic_core", "publicsuffixlist"}
    assert sys.stdlib_module_names > PURE - libraries


def test_no_clock_is_read_through_datetime() -> None:
    calls = [
        f"{file.name}:{node.lineno}"
        for file in _files("policy")
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
    ]
    assert calls == []


def _exit_literals(file: Path) -> Iterator[str]:
    """Numbers where an exit code is said: in a call that ends the program, or as `code=` of an error."""
    for node in ast.walk(_tree(file)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        said = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        if name in {"Exit", "exit", "_exit", "SystemExit"}:
            said += node.args
        yield from (
            f"{file.name}:{node.lineno}" for each in said if isinstance(each, ast.Constant) and type(each.value) is int
        )


def test_exit_codes_have_names() -> None:
    assert [found for layer in LAYERS for file in _files(layer) for found in _exit_literals(file)] == []


def test_no_two_classes_have_one_name() -> None:
    found: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert len(found) > 500
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
