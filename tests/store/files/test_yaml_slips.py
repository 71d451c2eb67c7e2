"""The slips that people make in YAML: the place, the words and the fix, whichever of the two parsers is there."""

from __future__ import annotations

import pytest
import yaml

from cloned_proxy.store.files import yaml_reader
from cloned_proxy.store.files.yaml_reader import DocumentError, read_document

HEAD = "version: 1\nglobal:\n  allow:\n"
SLIPS = [
    pytest.param(f"{HEAD}    - *.example.com\n", 4, 6, "write '*.example.com'", id="a wildcard without quotes"),
    pytest.param("allow: [a.test, **.example.com]\n", 1, 16, "write '**.example.com'", id="the same in brackets"),
    pytest.param(f"{HEAD}    - @acme/*\n", 4, 6, "write '@acme/*'", id="another first character"),
    pytest.param(f"{HEAD}    - &a.b\n", 4, 6, "write '&a.b'", id="an anchor that is none"),
    pytest.param(f"{HEAD}    - |x\n", 4, 6, "write '|x'", id="a block that is none"),
    pytest.param(f"{HEAD}\t- a.test\n", 4, 0, "a tab indents this line", id="a tab"),
    pytest.param(f"{HEAD}    - a.test\n  \t- b.test\n", 5, 2, "a tab indents this line", id="a tab behind spaces"),
    pytest.param(f"{HEAD}    - a.test\n   - b.test\n", 5, 3, "indented by 3, and what stands above it wants 4, 2 or 0",
                 id="a dash too far left"),
    pytest.param("version: 1\n global:\n  allow: []\n", 2, 1, "indented by 1, and what stands above it wants 0",
                 id="a key too far right"),
    pytest.param("global:\n  allow: []\n   deny: []\n", 3, 3, "indented by 3, and what stands above it wants 2 or 0",
                 id="a key beside its neighbour"),
    pytest.param(f"{HEAD}    - host: a.test\n     ports: [443]\n", 5, 5, "wants 6, 4, 2 or 0", id="a key of an entry"),
    pytest.param(f"{HEAD}    - a.test\n    reason: x\n", 5, 4, "among the entries of a list", id="a key in a list"),
    pytest.param("version: 1\nglobal\n  allow: []\n", 2, 0, "write a colon behind the key", id="no colon"),
    pytest.param("a: [x\nb: y\n", 1, 3, "the [ that opens here is not closed", id="an open bracket"),
    pytest.param("a: {x: 1\nb: y\n", 1, 3, "the { that opens here is not closed", id="an open brace"),
    pytest.param("a: 'x\nb: y\n", 1, 3, "the quote that opens here is never closed", id="an open quote"),
    pytest.param('a: "x\\q"\n', 1, None, "write single quotes", id="a backslash"),
    pytest.param("a: b: c\n", 1, 4, "a second `: ` in one line", id="two colons"),
    pytest.param("a: 0x1f\n", 1, None, "'0x1f' is no decimal number", id="hexadecimal"),
    pytest.param("a: 0443\n", 1, None, "'0443' is no decimal number", id="octal"),
    pytest.param("a: 1_000\n", 1, None, "'1_000' is no decimal number", id="underscores"),
    pytest.param("a: 22:22\n", 1, None, "'22:22' is no decimal number", id="base 60"),
    pytest.param("a: +5\n", 1, None, "'+5' is no decimal number", id="a plus"),
]  # fmt: skip


@pytest.mark.parametrize("parser", ["SafeLoader", "CSafeLoader"])
@pytest.mark.parametrize(("text", "line", "column", "words"), SLIPS)
def test_a_slip_is_named_with_its_place_and_fix(  # noqa: PLR0917  a row of the table and the parser
    monkeypatch: pytest.MonkeyPatch, parser: str, text: str, line: int, column: int | None, words: str
) -> None:
    monkeypatch.setattr(yaml_reader, "_PARSER", getattr(yaml, parser))
    with pytest.raises(DocumentError) as caught:
        read_document(text.encode(), "p.yaml")
    assert str(caught.value).startswith(f"p.yaml:{line}: ")
    assert words in str(caught.value)
    if column is not None:
        shown, caret = caught.value.shown.splitlines()
        assert shown == f"    {text.splitlines()[line - 1]}".replace("\t", "→")
        assert caret.index("^") == 4 + column


def test_a_long_line_is_shown_in_part_around_the_place() -> None:
    with pytest.raises(DocumentError) as caught:
        read_document(f"a: [{'x, ' * 200}*.b.test{', y' * 200}]\n".encode(), "p.yaml")
    shown, caret = caught.value.shown.splitlines()
    assert shown[caret.index("^") :].startswith("*.b.test")
    assert len(shown) <= 104
