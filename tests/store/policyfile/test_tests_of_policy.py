"""Edits of a file with `tests:`: what they forbid, and what can go with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.policyfile.policy_edit import EditResult, PolicyEditor
from cloned_proxy.store.policyfile.policy_entry import Addition, Entry
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.policyfile.tests_of_policy import ForbiddenByTestsError

NOW = 1_000_000_000.0


def _editor(path: Path) -> PolicyEditor:
    return PolicyEditor(path, clock=lambda: NOW)


def _allow(*hosts: str, tool: str | None = None) -> list[Addition]:
    return [Addition(tuple(Entry(host) for host in hosts), tool)]


def test_an_edit_that_fails_the_files_tests_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    text = "version: 1\ntests:\n  - {tool: demo@v1, deny: ['https://a.test/']}\n"
    path.write_text(text)
    with pytest.raises(PolicyError):
        _editor(path).add(_allow("a.test", tool="demo@v1"))
    assert path.read_text() == text


TESTED = """\
version: 1
anonymous: global
global:
  allow: [example.com]

tests:  # the rules of the house
  - {allow: ["https://example.com/"], deny: ["https://example.net/", "https://example.org/"]}  # the first
  - deny:
      - https://example.net/  # the second
"""


def test_a_test_of_the_file_forbids_an_edit_and_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(TESTED)
    with pytest.raises(ForbiddenByTestsError) as caught:
        _editor(path).add(_allow("example.net", "example.org"))
    assert [(problem.path, problem.line) for problem in caught.value.problems] == [
        ("tests[0].deny[0]", 7),
        ("tests[0].deny[1]", 7),
        ("tests[1].deny[0]", 9),
    ]
    told = str(caught.value).splitlines()
    assert told[0] == (
        f"{path}:7: tests[0].deny[0]: a test of the file forbids this: 'https://example.net/' should be denied"
    )
    assert "--update-tests" in told[-1]
    assert path.read_text() == TESTED


@pytest.mark.parametrize(
    ("change", "left"),
    [
        pytest.param(
            lambda editor: editor.add(_allow("example.net")),
            'tests:  # the rules of the house\n  - {allow: ["https://example.com/"], deny: ["https://example.org/"]}'
            "  # the first\n",
            id="one of several, and a whole test",
        ),
        pytest.param(
            lambda editor: editor.remove(["example.com"]),
            'tests:  # the rules of the house\n  - {allow: [], deny: ["https://example.net/", "https://example.org/"]}'
            "  # the first\n  - deny:\n      - https://example.net/  # the second\n",
            id="the only one of its list",
        ),
        pytest.param(
            lambda editor: editor.add([Addition((Entry("**.example.com"), Entry("example.com")), action="deny")]),
            'tests:  # the rules of the house\n  - {allow: [], deny: ["https://example.net/", "https://example.org/"]}'
            "  # the first\n  - deny:\n      - https://example.net/  # the second\n",
            id="a deny",
        ),
    ],
)
def test_what_an_edit_breaks_can_go_with_it(
    tmp_path: Path, change: Callable[[PolicyEditor], EditResult], left: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(TESTED)
    result = change(PolicyEditor(path, clock=lambda: NOW, update_tests=True))
    assert path.read_text().endswith(left)
    assert result.version == load_policy(path, NOW).version
    assert result.tests


def test_an_emptied_list_of_tests_stays_a_list(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\ntests:\n  - {deny: ['https://example.net/']}\nanonymous: global\n")
    editor = PolicyEditor(path, clock=lambda: NOW, update_tests=True)
    assert editor.add(_allow("example.net")).tests == ("tests[0].deny[0] 'https://example.net/'",)
    assert "tests: []\n" in path.read_text()


def test_a_test_that_fails_already_does_not_stand_in_the_way_of_its_own_repair(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(TESTED.replace("allow: [example.com]", "allow: [other.test]"))
    with pytest.raises(ForbiddenByTestsError):
        _editor(path).add(_allow("x.test"))
    assert _editor(path).add(_allow("example.com")).changed
