"""A rule that several doors share is the same at each of them: every door is asked the same questions."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cloned_proxy import testing
from cloned_proxy.cli.commands.serving.slots import parse_slot
from cloned_proxy.cli.editing.editing import check_tool
from cloned_proxy.cli.show.entries import TELLERS
from cloned_proxy.cli.show.errors import BAD_INPUT, FAILED
from cloned_proxy.cli.start.ending import report
from cloned_proxy.control.endpoints.rules import ToolId
from cloned_proxy.control.endpoints.terms import Duration
from cloned_proxy.fetch.guide import Guide
from cloned_proxy.fleet.tokens.tool_tokens import mint_tool_token
from cloned_proxy.local.slot_protocol import OpenSlot
from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.pack import read_pack
from cloned_proxy.policy.reading.parse import parse_policy
from cloned_proxy.policy.terms.reasons import REASONS
from cloned_proxy.policy.terms.units import parse_size, parse_term
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.runner.values.errors import EngineError, SandboxInputError
from cloned_proxy.runner.values.spec import check_tool_id, parse_memory
from cloned_proxy.store.approvals.egress_request import proposal_of
from cloned_proxy.store.audit.chain import TYPE_OF
from cloned_proxy.store.settings.issuer_settings import IssuerSettings
from cloned_proxy.telemetry.event_types import DECISION, EVENT_TYPES, TYPES_IN_THE_UI, TYPES_OF_TOOLS

KEY = b"k" * 32
type Door = Callable[[str], object]


def _policy(name: str) -> object:
    return parse_policy({"version": 1, "tools": {name: {"allow": ["example.com"]}}}, source="p", version="", lines={})


def _pack(name: str) -> object:
    found = read_pack({"allowlists": {"egress_by_tool": {name: ["example.com"]}}})
    if found.problems:
        raise ValueError(found.problems[0].message)
    return found


def _slot(name: str) -> object:
    return OpenSlot.decode(json.loads(OpenSlot(name, "run", ()).encode()))


def _issuer(name: str) -> object:
    return IssuerSettings(issuer="https://issuer.example", audience="a", map={"subject": name})


def _request(name: str) -> object:
    return proposal_of({"scope": "tool", "tool_id": name, "domains": ["example.com"]}, None)


def _fetch(name: str) -> object:
    return Guide(name, workspace=None, policy=None, proxy=None, extra_ca=None)


def _fleet_token(name: str) -> object:
    key: Any = None  # a name that is refused needs none
    return mint_tool_token(key, Claims(name, "run", 1.0), fleet="acme", now=0.0)


DOORS: dict[str, Door] = {
    "policy file": _policy,
    "policy import": _pack,
    "token": lambda name: mint_token(KEY, Claims(name, "run", 1.0)),
    "token of a fleet": _fleet_token,
    "issuer's map": _issuer,
    "slot protocol": _slot,
    "serve --slot": lambda name: parse_slot(f"{name}=/tmp/x.sock"),
    "runner": check_tool_id,
    "editing commands": check_tool,
    "API": TypeAdapter[str](ToolId).validate_python,
    "a tool's request": _request,
    "testing.decide": lambda name: testing.decide(Policy(), "https://example.com/", tool=name),
    "safe_fetch": _fetch,
}
NAMES = ("a+b", "a@b@c", "global", "a" * 97, "a b", "-a", "é", "a@" + "b" * 32)
"""The runner took the first four until its grammar became that of the policy."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_tool_id_is_one_nowhere(door: str, name: str) -> None:
    with pytest.raises(Exception, match=r"is not a tool id; write one such as cloned[.]mcp"):
        DOORS[door](name)


NEED_MORE = {"token of a fleet", "safe_fetch"}  # a key, a workspace


@pytest.mark.parametrize("name", ["a", "cloned.mcp.web.search@v1", "A-b_c.9@2026.1", "a" * 96 + "@" + "b" * 31])
@pytest.mark.parametrize("door", [door for door in DOORS if door not in NEED_MORE])
def test_what_is_a_tool_id_is_one_everywhere(door: str, name: str) -> None:
    DOORS[door](name)


def _asked_for(text: object) -> float | None:
    return proposal_of({"domains": ["example.com"], "for": text}, "a").for_seconds


@pytest.mark.parametrize("text", ["1h30m", "2w", "90s", "1500ms", "0s", "400000000s", "1.5h", "1h 30m", "", "h"])
def test_a_command_the_api_and_a_tool_take_the_same_durations(text: str) -> None:
    """The API and a tool's request refused `1h30m` and `2w`, which the commands took."""
    seconds = [_or_none(read, text) for read in (parse_term, TypeAdapter[float](Duration).validate_python, _asked_for)]
    assert len(set(seconds)) == 1


@pytest.mark.parametrize("text", ["512m", "1GiB", "2g", "1500MB", "64mb", "16384k", "m", "5x", "1.5g", "-1g", ""])
def test_memory_is_written_as_other_sizes_are(text: str) -> None:
    """`--memory` refused `1GiB`, and a policy `512m`."""
    size = _or_none(parse_size, text)
    assert _or_none(parse_memory, text) == size
    limits = {"version": 1, "tools": {"a": {"limits": {"bytes_per_hour": text}}}}
    policy = _or_none(lambda _: parse_policy(limits, source="p", version="", lines={}), text)
    assert (policy.tools["a"].limits.bytes_per_hour if policy else None) == size


def _or_none(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except Exception:  # noqa: BLE001  each door has an error of its own
        return None


ROOT = Path(__file__).parents[1]


def test_every_reason_has_its_row() -> None:
    assert list(REASONS) == list(Reason)


@pytest.mark.checkout
def test_the_control_ui_has_the_words_of_the_table() -> None:
    text = (ROOT / "cloned_proxy" / "control" / "static" / "reasons.js").read_text()
    words = dict(re.findall(r'^  (\w+): "([^"]*)",$', text, re.MULTILINE))
    assert words == {reason: row.meaning for reason, row in REASONS.items()}


@pytest.mark.checkout
def test_the_docs_explain_every_status() -> None:
    assert {str(row.status) for row in REASONS.values()} - {"200"} <= set(re.findall(r"\b[45]\d\d\b", _answers()))


def _answers() -> str:
    return (ROOT / "docs" / "answers.md").read_text()


def test_every_type_of_event_is_on_the_list_and_can_be_told() -> None:
    assert set(TYPE_OF.values()) == set(EVENT_TYPES)
    assert {DECISION, *TELLERS} == set(EVENT_TYPES)
    assert set(EVENT_TYPES) >= TYPES_IN_THE_UI


def test_a_log_of_one_tool_holds_every_type_that_names_a_tool() -> None:
    """`log --tool` left out who had ignored a host of that tool."""
    named = {name for kind, name in TYPE_OF.items() if "tool" in {field.name for field in dataclasses.fields(kind)}}
    assert named == set(TYPES_OF_TOOLS)


def _strings(file: Path) -> list[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("form", "place"),
    [
        ("^BEGIN( |$)", "transaction.py"),
        (re.escape("!#$%&'*+"), "http_token.py"),
        (re.escape("is not a tool id; write"), "tool_id.py"),
        (re.escape("smhd"), "units.py"),
    ],
)
def test_a_shared_rule_is_written_in_one_file(form: str, place: str) -> None:
    files = sorted((ROOT / "cloned_proxy").rglob("*.py"))
    assert [file.name for file in files if any(re.search(form, each) for each in _strings(file))] == [place]


@pytest.mark.checkout
def test_brackets_are_put_around_a_host_in_one_file() -> None:
    form = re.compile(r'f"\[\{[\w.]*(?:host|text|address)[\w.]*\}\]')
    files = sorted((ROOT / "cloned_proxy").rglob("*.py"))
    assert [file.name for file in files if form.search(file.read_text())] == ["host_port.py"]


@pytest.mark.parametrize(("error", "code"), [(SandboxInputError("a; b"), BAD_INPUT), (EngineError("a; b"), FAILED)])
def test_what_a_sandbox_cannot_do_ends_a_command_in_one_line(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mcp add` called a mistake of the user a failure, exit 1."""
    assert (report(error), capsys.readouterr().err) == (code, "cloned-proxy: a; b\n")
