"""No module of the proxy needs mitmproxy, and what `addons/egress.py` takes of it is there: docs/mitmproxy.md."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from mitmproxy.connection import Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.version import VERSION

import cloned_proxy

pytestmark = pytest.mark.checkout  # it reads the source and the page where they are written

ROOT = Path(__file__).parents[3]
PACKAGE = Path(cloned_proxy.__file__).parent
PAGE = ROOT / "docs/mitmproxy.md"
FIX = "change addons/egress.py and docs/mitmproxy.md, and see tests/proxy/inspection/test_script_addon.py pass"


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """(module of mitmproxy, name) of each import."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mitmproxy":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "mitmproxy")


def is_there(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name) or find_spec(f"{module}.{name}") is not None
    except ImportError:
        return False


def test_the_proxy_imports_nothing_of_it() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    assert {str(file.relative_to(PACKAGE)): list(imported(file)) for file in files if list(imported(file))} == {}


def test_what_the_script_takes_is_on_the_page_and_there() -> None:
    taken = set(imported(ROOT / "addons/egress.py"))
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|$", PAGE.read_text(), re.MULTILINE)
    assert {(module, name) for name, module in rows} == taken
    gone = [f"{name} of {module}" for module, name in sorted(taken) if not is_there(module, name)]
    assert gone == [], f"mitmproxy {VERSION} has moved {', '.join(gone)}: {FIX}"


_ASK = """
import asyncio, json
from mitmproxy.options import Options
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.hooks import all_hooks

async def ask():
    print(json.dumps([sorted(all_hooks), sorted(DumpMaster(Options()).options.keys())]))

asyncio.run(ask())
"""


@cache
def known() -> tuple[list[str], list[str]]:
    """The hooks and the options of mitmdump, asked in a process of its own: what it imports warns, which fails here."""
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True, timeout=100)
    hooks, options = json.loads(done.stdout)
    return hooks, options


def written_hooks() -> set[str]:
    """The methods of the script that mitmproxy is to call: those without an underscore."""
    tree = ast.parse((ROOT / "addons/egress.py").read_text())
    [script] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = [node for node in script.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name for node in methods if not node.name.startswith("_")}


def test_each_hook_of_the_script_is_on_the_page_and_is_called() -> None:
    """mitmproxy calls a method by its name and says nothing of one that it does not know: it fails open."""
    hooks = written_hooks()
    assert set(re.findall(r"^\| `(\w+)` \| [^`|]+ \| .* \|$", PAGE.read_text(), re.MULTILINE)) == hooks
    gone = sorted(hooks - set(known()[0]))
    assert gone == [], (
        f"mitmproxy {VERSION} calls {', '.join(gone)} no more, so the script decides nothing there: {FIX}"
    )


def test_each_option_of_the_script_is_on_the_page_and_there() -> None:
    text = (ROOT / "addons/egress.py").read_text()
    named = set(re.findall(r"\b(\w+)=", text.partition("ctx.options.update(")[2].partition(")")[0]))
    named |= set(re.findall(r'"(\w+)"', text.partition("_PASSTHROUGH = (")[2].partition(")")[0]))
    assert len(named) == 8
    assert {name for name in named if f"`{name}`" not in PAGE.read_text()} == set()
    gone = sorted(named - set(known()[1]))
    assert gone == [], f"mitmproxy {VERSION} has the options {', '.join(gone)} no more: {FIX}"


def test_what_the_script_reads_of_a_dial_is_there() -> None:
    """The one hook whose error stops a dial: were its data to change, the script would refuse everything at best."""
    fields = {field.name for field in dataclasses.fields(ServerConnectionHookData)}
    gone = sorted({"server", "client"} - fields)
    assert gone == [], f"mitmproxy {VERSION} tells server_connect no {', '.join(gone)} any more: {FIX}"
    server = Server(address=("a.example", 443))
    missing = [name for name in ("address", "via", "error") if not hasattr(server, name)]
    assert missing == [], f"mitmproxy {VERSION} has no {', '.join(missing)} of a server connection any more: {FIX}"
