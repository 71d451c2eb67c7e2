"""Pipelines as values: what is accepted, what a reference becomes, and what each tool is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.pipelines.artifacts import keep_artifact
from cloned_proxy.runner.pipelines.pipeline import complete_inputs, load_pipeline, parse_pipeline, resolve
from cloned_proxy.runner.pipelines.pipeline_run import StepError, run_pipeline, settings_of
from cloned_proxy.runner.runs.job import ToolResult
from cloned_proxy.runner.values.errors import SandboxInputError, ToolFailedError

HEAD = "version: 1\nid: p\ninputs: {topic: {required: true}, n: {default: 3}}\nsteps:\n"
TWO = (
    HEAD
    + '  - {id: one, tool: a@v1, input: {q: "${input.topic}"}}\n'
    + '  - {id: two, tool: b@v1, input: {r: "${steps.one.x}"}}\n'
)

REFUSED = [
    ("an unknown key", HEAD + "  - {id: one, tool: a@v1, inputs: {}}\n", "steps.0.inputs"),
    ("no step", "version: 1\nid: p\nsteps: []\n", "steps"),
    ("another version", "version: 2\nid: p\nsteps: [{id: one, tool: a@v1}]\n", "version"),
    ("the same step twice", HEAD + "  - {id: one, tool: a@v1}\n  - {id: one, tool: b@v1}\n", "the id is taken"),
    ("a later step", HEAD + '  - {id: one, tool: a@v1, input: {q: "${steps.two.x}"}}\n', "names nothing of an earlier"),
    ("an unknown input", HEAD + '  - {id: one, tool: a@v1, input: {q: "${input.nope}"}}\n', "names nothing of inputs"),
]


@pytest.mark.parametrize(("text", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_pipeline_that_cannot_run_is_refused_before_it_starts(text: str, message: str) -> None:
    with pytest.raises(SandboxInputError, match=message):
        parse_pipeline(text.encode(), "p.yaml")


def test_the_shipped_pipeline_is_accepted_and_an_unknown_one_lists_it(tmp_path: Path) -> None:
    assert [step.id for step in load_pipeline("pipeline.research.report", tmp_path).steps] == [
        "search",
        "synthesis",
        "save",
    ]
    with pytest.raises(SandboxInputError, match=r"known: pipeline\.folder\.summary, pipeline\.research\.report"):
        load_pipeline("nope", tmp_path)
    with pytest.raises(SandboxInputError, match="not the id"):
        load_pipeline("../../etc/passwd", tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${input.topic}", ["a", 1]),
        ("about ${input.topic}!", "about ['a', 1]!"),
        ({"k": ["${steps.one.x}"]}, {"k": [{"y": 2}]}),
        ("${steps.one.x.y}", 2),
        ("$plain {text} ${other.thing}", "$plain {text} ${other.thing}"),
        (7, 7),
    ],
)
def test_references(value: Any, expected: Any) -> None:
    assert resolve(value, {"topic": ["a", 1]}, {"one": {"x": {"y": 2}}}) == expected


def test_what_a_tool_gave_back_is_never_read_for_references() -> None:
    outputs = {"one": {"x": "${input.secret}"}}
    assert resolve("got ${steps.one.x}", {"secret": "hunter2"}, outputs) == "got ${input.secret}"
    assert resolve("${steps.one.x}", {"secret": "hunter2"}, outputs) == "${input.secret}"


def test_inputs() -> None:
    pipeline = parse_pipeline(TWO.encode(), "p.yaml")
    assert complete_inputs(pipeline, {"topic": "t"}) == {"topic": "t", "n": 3}
    with pytest.raises(SandboxInputError, match="--topic TEXT"):
        complete_inputs(pipeline, {})
    with pytest.raises(SandboxInputError, match="known: topic, n"):
        complete_inputs(pipeline, {"topic": "t", "nope": 1})


def test_each_tool_gets_its_own_settings_and_nothing_else() -> None:
    environ = {"BRAVE_API_KEY": "b", "LLM_API_KEY": "l", "AWS_SECRET_ACCESS_KEY": "s", "LLM_MODEL": ""}
    assert settings_of("cloned.mcp.web.search@v1", environ) == {"brave_api_key": "b"}
    assert settings_of("cloned.internal.synthesis@v1", environ | {"LLM_MODEL": "m"}) == {"llm_model": "m"}
    assert settings_of("other@v1", environ) == {}


class Fake:
    """A runner that notes what it was asked and answers from a table."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any, bool]] = []

    def run_tool(
        self,
        tool_id: str,
        input: Any,  # noqa: A002  the interface's word
        ctx: Any = None,
        *,
        timeout: float | None = None,
        files: tuple[str, ...] = (),
        dry_run: bool = False,
        watch: Any = None,
    ) -> ToolResult:
        self.asked.append((tool_id, input, dry_run))
        answer = self.answers[tool_id]
        if isinstance(answer, Exception):
            raise answer
        return ToolResult(answer, "", 0.1, 0.1, "cafe0000", {})


def test_steps_run_in_order_and_feed_each_other(tmp_path: Path) -> None:
    runner = Fake({"a@v1": {"x": 5}, "b@v1": "end"})
    said: list[str] = []
    report = run_pipeline(
        parse_pipeline(TWO.encode(), "p"), {"topic": "t"}, runner, artifacts=tmp_path, environ={}, progress=said.append
    )
    assert runner.asked == [("a@v1", {"q": "t"}, False), ("b@v1", {"r": 5}, False)]
    assert (report.output, report.artifact) == ("end", None)
    assert said[0].startswith("1/2 one (a@v1)")


def test_a_failed_step_names_its_tool_the_reason_and_the_hint(tmp_path: Path) -> None:
    runner = Fake({"a@v1": ToolFailedError("a@v1: the model is asleep")})
    with pytest.raises(StepError) as caught:
        run_pipeline(
            parse_pipeline(TWO.encode(), "p"),
            {"topic": "t"},
            runner,
            artifacts=tmp_path,
            environ={},
            progress=lambda _: None,
            hint_for=lambda tool, _since: f"cloned-proxy allow x --tool {tool}",
        )
    assert str(caught.value) == "step one failed: a@v1: the model is asleep; hint: cloned-proxy allow x --tool a@v1"


def _saved(text: bytes, manifest: bytes) -> ToolResult:
    return ToolResult({}, "", 0.1, 0.1, "cafe0000", {"artifact.md": text, "manifest.json": manifest})


def test_an_artifact_is_kept_privately_under_a_harmless_name(tmp_path: Path) -> None:
    manifest = json.dumps({"title": "../../Etc/passwd é", "sha256": hashlib.sha256(b"text").hexdigest()}).encode()
    kept = keep_artifact(tmp_path / "artifacts", "p", _saved(b"text", manifest), [])
    assert kept.parent.parent == tmp_path / "artifacts"
    assert "etc-passwd" in kept.parent.name
    assert kept.read_bytes() == b"text"
    assert kept.stat().st_mode & 0o077 == 0
    assert json.loads((kept.parent / "manifest.json").read_text())["pipeline"] == "p"


@pytest.mark.parametrize("manifest", [b"", b"[]", b'{"title": "t", "sha256": "other"}', b'{"sha256": "x"}'])
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, manifest: bytes) -> None:
    with pytest.raises(ToolFailedError, match=r"manifest\.json"):
        keep_artifact(tmp_path / "artifacts", "p", _saved(b"text", manifest), [])
    assert not (tmp_path / "artifacts").exists()
