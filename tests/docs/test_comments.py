"""A comment has a subject: none leans on the name above it by a pronoun, or by an `Of` with nothing before it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.checkout  # it reads the source where it is written

ROOT: Final = Path(__file__).parents[2]
_FILES: Final = [*(ROOT / "cloned_proxy").rglob("*.py"), *(ROOT / "plane" / "src").rglob("*.rs")]
_COMMENT: Final = re.compile(r'\s*(?:#|//[/!]?|""")')
_LEANING: Final = re.compile(r'\s*(?:# |//[/!]? |""")(?:Of|It|Its|They|Their|Else|And|Or)\b')


def leaning(text: str) -> list[str]:
    """Comments and docstrings that begin so; a line in the middle of one may."""
    lines = text.splitlines()
    return [
        line.strip()
        for before, line in zip(["", *lines], lines, strict=False)
        if _LEANING.match(line) and not (_COMMENT.match(before) and '"""' not in line)
    ]


@pytest.mark.parametrize("line", ['    """Of one fleet."""', "# It has ended.", "    /// Its socket is closed."])
def test_a_comment_without_a_subject_is_found(line: str) -> None:
    assert leaning(f"x = 1\n{line}\n") == [line.strip()]
    assert leaning(f"# A sentence of two lines.\n{line}\n") == ([line.strip()] if '"""' in line else [])


def test_comments_begin_with_their_subject() -> None:
    assert len(_FILES) > 800
    found = {file.relative_to(ROOT).as_posix(): leaning(file.read_text()) for file in _FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}
