"""The `tests:` of a policy file under an edit: what they forbid, and how they are changed with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cloned_proxy.policy.deciding.self_test import FailedTest
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.problem import Problem
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.list_edit import remove_entry
from cloned_proxy.store.files.yaml_reader import read_document


class ForbiddenByTestsError(PolicyError):
    """An edit that the file's own `tests:` forbid. Its problems name each test and its line in the file as it is."""

    def __init__(self, failed: Sequence[FailedTest], source: str, lines: Mapping[FailedTest, int]) -> None:
        problems = tuple(
            Problem(test.place, lines.get(test), f"a test of the file forbids this: {test.wish}") for test in failed
        )
        super().__init__(problems, source)

    def __str__(self) -> str:
        """For the command line; the API offers the same as a field of the request."""
        return f"{super().__str__()}\nadd --update-tests to take that out of the tests in the same edit"


def lines_of_tests(raw: bytes, edited: str, failed: Iterable[FailedTest]) -> dict[FailedTest, int]:
    """On which line (1-based) of the file each of them stands; none where the tests come with the edit."""
    try:
        document = read_document(raw, "")
    except StoreError:
        return {}
    new = read_document(edited.encode(), "")
    if _tests_in(document.data) != _tests_in(new.data):
        return {}
    return {test: document.lines[test.path] for test in failed if test.path in document.lines}


def _tests_in(data: object) -> object:
    return data.get("tests") if isinstance(data, dict) else None


def without_tests(path: Path, text: str, failed: Sequence[FailedTest]) -> str:
    """The text without these expectations; a test that expects nothing else goes as a whole. Raises StoreError."""
    tests = read_document(text.encode(), str(path)).data["tests"]  # type: ignore[index]  # a policy with failed tests
    # From the end, so that the places of the earlier ones stay.
    for number in sorted({test.test for test in failed}, reverse=True):
        ours = sorted((test for test in failed if test.test == number), key=lambda t: t.position, reverse=True)
        if len(ours) == sum(len(tests[number].get(wanted) or ()) for wanted in ("allow", "deny")):
            text = remove_entry(path, text, ("tests",), number)
            continue
        for test in ours:
            text = remove_entry(path, text, ("tests", number, test.wanted), test.position)
    return text
