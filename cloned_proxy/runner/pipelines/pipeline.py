"""Pipelines as values: read strictly from YAML, and their references resolved. Pure but for `load_pipeline`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.share import share_path
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.strict_model import StrictModel
from cloned_proxy.store.files.yaml_reader import read_document

_MAX_BYTES: Final = 1024 * 1024
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REFERENCE: Final = re.compile(r"\$\{((?:input|steps)(?:\.[A-Za-z0-9_-]+)+)\}")


class Input(StrictModel):
    required: bool = False
    """Neither missing nor empty."""
    default: Any = None


class Step(StrictModel):
    id: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    tool: str
    input: dict[str, Any] = Field(default_factory=dict)
    """May refer to `${input.NAME}` and to `${steps.ID.KEY}` of an earlier step."""
    artifact: bool = False
    """The step leaves `artifact.md` and `manifest.json` in its scratch directory, to be kept."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds; None: the setting's."""


class Pipeline(StrictModel):
    version: Literal[1]
    id: str
    inputs: dict[str, Input] = Field(default_factory=dict)
    steps: list[Step] = Field(min_length=1)


def load_pipeline(name: str, workspace: Path) -> Pipeline:
    """The pipeline `name`: the workspace's own (`.cloned/pipelines/`), else a shipped one. Raises SandboxInputError."""
    if not _ID.fullmatch(name):
        raise SandboxInputError(f"{name!r} is not the id of a pipeline, such as pipeline.research.report")
    shipped = share_path("config", "pipelines")
    for place in (workspace / "pipelines", shipped):
        path = place / f"{name}.yaml"
        if path.exists():
            return parse_pipeline(read_regular_file(path, limit=_MAX_BYTES, what="pipeline"), str(path))
    raise SandboxInputError(f"there is no pipeline {name}; known: {', '.join(known_pipelines(workspace))}")


def known_pipelines(workspace: Path) -> list[str]:
    """The names of the workspace's own and of the shipped ones."""
    places = (workspace / "pipelines", share_path("config", "pipelines"))
    return sorted({path.stem for place in places for path in place.glob("*.yaml")})


def parse_pipeline(raw: bytes, source: str) -> Pipeline:
    """Raises SandboxInputError with every problem and its place."""
    document = read_document(raw, source)
    try:
        pipeline = Pipeline.model_validate(document.data)
    except ValidationError as error:
        problems = [f"{source}: {'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in error.errors()]
        raise SandboxInputError("\n".join(problems)) from error
    earlier: set[str] = set()
    for step in pipeline.steps:
        for reference in _references(step.input):
            kind, name = reference.split(".")[:2]
            known = pipeline.inputs if kind == "input" else earlier
            if name not in known:
                place = "inputs" if kind == "input" else "an earlier step"
                raise SandboxInputError(f"{source}: steps.{step.id}: ${{{reference}}} names nothing of {place}")
        if step.id in earlier:
            raise SandboxInputError(f"{source}: steps.{step.id}: the id is taken; choose another")
        earlier.add(step.id)
    return pipeline


def complete_inputs(pipeline: Pipeline, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with their defaults. Raises SandboxInputError for a missing or unknown one."""
    for name in given:
        if name not in pipeline.inputs:
            known = ", ".join(pipeline.inputs) or "none"
            raise SandboxInputError(f"{pipeline.id} has no input {name}; known: {known}")
    values = {name: given.get(name, spec.default) for name, spec in pipeline.inputs.items()}
    for name, spec in pipeline.inputs.items():
        if spec.required and values[name] in (None, ""):
            raise SandboxInputError(f"{pipeline.id} needs {name}: give it with {how_to_give(name)}")
    return values


def defaults_used(pipeline: Pipeline, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that nobody gave and that have a default."""
    return {
        name: spec.default for name, spec in pipeline.inputs.items() if name not in given and spec.default is not None
    }


def how_to_give(name: str) -> str:
    """The option that gives an input to `run`."""
    return "--topic TEXT" if name == "topic" else f"--input '{{\"{name}\": …}}'"


def resolve(value: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    """`value` with its references replaced. A string that is one reference becomes the value itself, of any type."""
    scope = {"input": inputs, "steps": outputs}
    if isinstance(value, dict):
        return {key: resolve(item, inputs, outputs) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, inputs, outputs) for item in value]
    if not isinstance(value, str):
        return value
    if whole := _REFERENCE.fullmatch(value):
        return _look_up(whole[1], scope)
    # One pass: what a step puts in is never read for references again.
    return _REFERENCE.sub(lambda match: str(_look_up(match[1], scope)), value)


def _look_up(reference: str, scope: Mapping[str, Any]) -> Any:
    found: Any = scope
    for part in reference.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise SandboxInputError(f"${{{reference}}}: there is no {part} in what the step before gave back")
        found = found[part]
    return found


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [reference for item in value.values() for reference in _references(item)]
    if isinstance(value, list):
        return [reference for item in value for reference in _references(item)]
    return _REFERENCE.findall(value) if isinstance(value, str) else []
