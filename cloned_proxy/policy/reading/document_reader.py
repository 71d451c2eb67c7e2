"""Reads one document (plain data, as YAML gives it) part by part, and collects what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ValidationError

from cloned_proxy.policy.reading.messages import explain
from cloned_proxy.policy.terms.problem import DocumentPath, Problem


def path_text(path: DocumentPath) -> str:
    """A place as messages name it, such as `tools.demo@v1.allow[2].host`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or "(file)"


@dataclass(slots=True)
class DocumentReader:
    """One document, with the line of each of its parts (1-based), and the problems found so far."""

    source: str
    lines: Mapping[DocumentPath, int]
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: DocumentPath) -> int | None:
        """The line of the nearest ancestor whose line is known."""
        if (line := self.lines.get(path)) is not None:
            return line
        for end in range(len(path) - 1, -1, -1):
            if (line := self.lines.get(path[:end])) is not None:
                return line
        return None

    def problem(self, path: DocumentPath, message: str) -> None:
        """Notes what is wrong at this place, and what to write instead."""
        self.problems.append(Problem(path_text(path), self.line(path), message))

    def in_file_order(self) -> tuple[Problem, ...]:
        """What was found, as a person meets it who reads from the top."""
        return tuple(sorted(self.problems, key=lambda problem: problem.line or 0))

    def struct[T: BaseModel](self, model: type[T], value: object, path: DocumentPath) -> T | None:
        """The part as its model reads it; None where it does not fit, with a problem for each reason."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=True):
                where = tuple(step for step in detail["loc"] if step != "[key]")
                self.problem((*path, *where), explain(detail, model, where))
            return None
