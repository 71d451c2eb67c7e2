"""A preset document (plain data, as YAML gives it) becomes a `Preset`, or every problem in it at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Final

from pydantic import BaseModel, ValidationError

from cloned_proxy.policy.model.preset import Preset, valid_preset_name
from cloned_proxy.policy.reading.documents import PresetDocument, PresetRuleDocument
from cloned_proxy.policy.reading.messages import explain, kind_of, not_a_host
from cloned_proxy.policy.reading.parse import PolicyError, parse_policy
from cloned_proxy.policy.terms.host import parse_pattern
from cloned_proxy.policy.terms.problem import DocumentPath, Problem
from cloned_proxy.policy.terms.rule import HostPattern, PatternKind, Rule

_MAX_TEXT: Final = 500
_NO_LITERAL: Final = "a preset names hosts, never addresses; put {host} into `allow` of the policy itself"


def read_preset(document: object, *, name: str, source: str, version: str, lines: Mapping[DocumentPath, int]) -> Preset:
    """Validates one preset. `name` is what its file is called; `lines` as for `parse_policy`. Raises PolicyError."""
    if not isinstance(document, dict):
        problem = Problem("(file)", 1, f"a preset is a mapping with name, about, source, not {kind_of(document)}")
        raise PolicyError((problem,), source)
    problems: list[Problem] = []
    read = _struct(PresetDocument, document, (), lines, problems)
    if read is None:
        raise PolicyError(tuple(problems), source)
    for key in ("name", "about", "source"):
        text = getattr(read, key)
        if not text.strip() or len(text) > _MAX_TEXT or not text.isprintable():
            problems.append(Problem(key, lines.get((key,)), f"one line of 1 to {_MAX_TEXT} printable characters"))
    if not valid_preset_name(name) or read.name != name:
        message = f"the name is that of the file, in lower-case letters, digits and dashes: {name}"
        problems.append(Problem("name", lines.get(("name",)), message))
    for index, entry in enumerate(read.allow):
        if isinstance(entry, dict):
            _struct(PresetRuleDocument, entry, ("allow", index), lines, problems)
    quiet = tuple(_quiet(read.quiet, lines, problems))
    if not problems:
        problems += _unfit(_rules(read.allow, source, lines), lines)
    if problems:
        raise PolicyError(tuple(sorted(problems, key=lambda problem: problem.line or 0)), source)
    return Preset(name, read.about, read.source, _day(read.checked), tuple(read.allow), quiet, version)


def preset_rules(preset: Preset) -> tuple[Rule, ...]:
    """The rules of a preset as they would stand in the global scope, to be shown."""
    policy = parse_policy(
        {"version": 1, "global": {"use": [preset.name]}},
        source=f"preset {preset.name}",
        version="",
        lines={},
        presets={preset.name: preset},
    )
    return policy.global_scope.allow.rules


def _rules(entries: list[object], source: str, lines: Mapping[DocumentPath, int]) -> tuple[Rule, ...]:
    """The entries as the policy parser reads them, with its own words for what is wrong. Raises PolicyError."""
    above = {("global", *path): line for path, line in lines.items()}
    try:
        policy = parse_policy({"version": 1, "global": {"allow": entries}}, source=source, version="", lines=above)
    except PolicyError as error:
        found = tuple(Problem(p.path.removeprefix("global."), p.line, p.message) for p in error.problems)
        raise PolicyError(found, source) from error
    return policy.global_scope.allow.rules


def _unfit(rules: tuple[Rule, ...], lines: Mapping[DocumentPath, int]) -> list[Problem]:
    """What a policy may say and a preset may not, judged by the rules that really come of it."""
    problems: list[Problem] = []
    for index, rule in enumerate(rules):
        if rule.pattern.kind is PatternKind.ADDRESS:
            message = _NO_LITERAL.format(host=rule.pattern)
        elif rule.addresses or rule.inject is not None or rule.expires or rule.max_uses:
            message = "a preset can open no addresses, inject nothing and set no terms"
        else:
            continue
        problems.append(Problem(f"allow[{index}]", lines.get(("allow", index)), message))
    return problems


def _quiet(hosts: list[object], lines: Mapping[DocumentPath, int], problems: list[Problem]) -> list[HostPattern]:
    patterns: list[HostPattern] = []
    for index, host in enumerate(hosts):
        try:
            if not isinstance(host, str):
                raise ValueError(not_a_host(host))  # noqa: TRY004, TRY301  one way to report
            patterns.append(parse_pattern(host))
        except ValueError as error:
            problems.append(Problem(f"quiet[{index}]", lines.get(("quiet", index)), str(error)))
    return patterns


def _day(value: date) -> date:
    return date(value.year, value.month, value.day)


def _struct[T: BaseModel](
    model: type[T], value: object, path: DocumentPath, lines: Mapping[DocumentPath, int], problems: list[Problem]
) -> T | None:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=True):
            where = (*path, *(step for step in detail["loc"] if step != "[key]"))
            line = next((lines[where[:end]] for end in range(len(where), -1, -1) if where[:end] in lines), None)
            text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where).removeprefix(".")
            problems.append(Problem(text or "(file)", line, explain(detail, model, where[len(path) :])))
        return None
