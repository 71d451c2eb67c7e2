"""What the opened TLS takes from inside mitmproxy is still there, and docs/mitmproxy.md lists all of it.

Where one of these fails after an upgrade nothing is broken yet: the sentence says what has moved and who relies on it.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy import proxy

pytestmark = pytest.mark.checkout  # it reads the source and the page where they are written

INSPECTION = Path(proxy.__file__).parent / "inspection"
PAGE = Path(__file__).parents[3] / "docs/mitmproxy.md"


def imported() -> Iterator[tuple[str, str, str]]:
    """(where, module of mitmproxy, name) of each import in `proxy/inspection/`."""
    for file in sorted(INSPECTION.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mitmproxy":
                place = f"cloned_proxy/proxy/inspection/{file.relative_to(INSPECTION)}:{node.lineno}"
                yield from ((place, node.module or "", alias.name) for alias in node.names)


def subclasses() -> Iterator[tuple[type, type]]:
    """(our class, the class of mitmproxy that it extends)."""
    for file in sorted(INSPECTION.rglob("*.py")):
        name = ".".join(("cloned_proxy.proxy.inspection", *file.relative_to(INSPECTION).with_suffix("").parts))
        if name.endswith("__init__"):
            continue
        for ours in vars(import_module(name)).values():
            if isinstance(ours, type) and ours.__module__ == name:
                base = next((base for base in ours.__mro__ if base.__module__.startswith("mitmproxy.")), None)
                if base is not None:
                    yield ours, base


def overridden(ours: type, base: type) -> dict[str, tuple[Any, Any]]:
    """Methods of `ours` that its base has under the same name: (ours, the base's)."""
    return {
        name: (made, getattr(base, name))
        for name, made in vars(ours).items()
        if inspect.isfunction(made) and hasattr(base, name) and not name.startswith("__")
    }


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page, without its head."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def is_there(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name) or find_spec(f"{module}.{name}") is not None
    except ImportError:
        return False


def test_what_is_imported_is_there() -> None:
    """By name, where the import itself would only say that the first of them failed."""
    places = list(imported())
    assert places
    moved = [f"{place}: {module}.{name}" for place, module, name in places if not is_there(module, name)]
    assert moved == [], "this mitmproxy has these no more: docs/mitmproxy.md says what for"


def test_methods_are_still_called_as_ours_are_written() -> None:
    both = [(base, name, *two) for ours, base in subclasses() for name, two in overridden(ours, base).items()]
    assert both
    for base, name, made, theirs in both:
        wanted = [parameter.name for parameter in inspect.signature(theirs).parameters.values()]
        taken = [parameter.name for parameter in inspect.signature(made).parameters.values()]
        moved = f"mitmproxy's {base.__qualname__}.{name} takes {wanted} now, {made.__qualname__} takes {taken}"
        assert taken[: len(wanted)] == wanted, moved


def test_the_page_lists_each_class_and_each_method() -> None:
    listed = rows("Classes that we extend")
    said = {quoted(ours)[0]: (quoted(base)[0], quoted(methods)) for ours, base, methods in listed}
    done = {
        ours.__qualname__: (f"{base.__module__}.{base.__qualname__}", sorted(overridden(ours, base)))
        for ours, base in subclasses()
    }
    assert said == done, "docs/mitmproxy.md, Classes that we extend: mitmproxy lost a method, or the table is old"


@pytest.mark.parametrize("name", ["Http1Client", "Http2Client"])
def test_what_we_put_in_its_place_is_looked_up_there(name: str) -> None:
    made = f"{name}(self.context)" in inspect.getsource(import_module("mitmproxy.proxy.layers.http").HttpClient)
    assert made, f"mitmproxy's HttpClient no longer makes its {name} by that name: responses pass ours by"


def test_what_is_taken_out_is_there() -> None:
    data = import_module("mitmproxy.http").MessageData
    assert inspect.isfunction(data.__post_init__), "MessageData checks its types elsewhere"
    named = vars(import_module("mitmproxy.net.tls"))
    assert "log_master_secret" in named, "the file of SSLKEYLOGFILE is written by another name now"


def test_every_option_that_a_layer_reads_has_a_value() -> None:
    layers = ("layers.http", "layers.http._http1", "layers.tcp", "layers.tls", "server", "tunnel")
    sources = [inspect.getsource(import_module(f"mitmproxy.proxy.{layer}")) for layer in layers]
    read = {name for source in sources for name in re.findall(r"\boptions\.([a-z]\w*)", source)}
    options = import_module("cloned_proxy.proxy.inspection.engine")._make_options()
    unknown = {name for name in read if not hasattr(options, name)}
    assert unknown == set(), "layers of this mitmproxy read options that engine.py's _LAYER_OPTIONS does not define"
