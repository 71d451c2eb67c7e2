"""The two exit codes that say nothing by themselves, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloned_proxy.cli.commands.sandbox.exit_explained import LastWords, explained
from cloned_proxy.runner.images.tool_program import ToolProgram
from cloned_proxy.runner.runs.job import Job

MISSING: list[bytes] = [
    b"[FATAL tini (8)] exec claude failed: No such file or directory\n",
    b"sh: 1: exec: claude: not found\r\n",
    b"sh: line 1: exec: claude: not found\n",
    b"sh: exec: line 0: claude: not found\n",
    b"ERROR (catatonit:2): failed to exec pid1: No such file or directory\n",
]


def job(*command: str) -> Job:
    return Job(tool="a@v1", program=ToolProgram("worker:1", command))


def words(*pieces: bytes) -> LastWords:
    said = LastWords()
    for piece in pieces:
        said.add(piece)
    return said


@pytest.mark.parametrize("line", MISSING)
def test_a_missing_program_is_named_with_the_package_that_brings_it(line: bytes) -> None:
    text = explained(127, job("claude", "-p"), words(b"x" * 5000 + b"\n", line[:20], line[20:]))
    assert text is not None
    assert text.startswith(
        "the image worker:1 has no claude: bake it in by `cloned-proxy image build --npm "
        "@anthropic-ai/claude-code@2.1.197 --scripts --tool a@v1`, or"
    )


def test_a_missing_program_of_no_known_package_may_be_debians_npms_or_pypis() -> None:
    text = explained(127, job("vim"), words(b"[FATAL tini (7)] exec vim failed: No such file"))
    assert text is not None
    assert text.index("Debian") < text.index("--npm PACKAGE@VERSION` or `--pypi PACKAGE==VERSION`, with `--tool a@v1`")


CASES: list[tuple[str, int, tuple[str, ...], bytes, str | None]] = [
    ("its own code", 3, ("claude",), b"exec: claude: not found", None),
    ("any program", 127, ("jq",), b"[FATAL tini (7)] exec jq failed: No such file", "the image worker:1 has no jq: "),
    ("a path", 127, ("./x y",), b"[FATAL tini (7)] exec ./x y failed: No such", "./x y does not exist in the sandbox"),
    ("no execute bit", 126, ("./x",), b"[FATAL tini (7)] exec ./x failed: Permission", "./x cannot be executed in the"),
    ("what a script calls", 127, ("sh", "-c", "z"), b"sh: 1: z: not found", "exit code 127: something that sh called"),
    ("what it may not call", 126, ("sh",), b"sh: 1: /z: Permission denied", "exit code 126: something that sh called"),
    ("silence", 127, ("x",), b"", "exit code 127: something that x called was not found in the image worker:1"),
    ("a file too large", 153, ("dd",), b"File size limit exceeded", "a file became larger than one file may be in"),
    ("a name that is a pattern", 127, ("(",), b"exec: (: not found", "the image worker:1 has no (: "),
]


@pytest.mark.parametrize("code", [126, 127])
def test_a_path_of_ones_own_is_named_and_not_the_image(code: int) -> None:
    """`exec --env PATH=x TOOL -- sh`: the init finds no sh, and the image has one."""
    words_of_init = words(b"[FATAL tini (7)] exec sh failed: No such file or directory")
    own = replace(job("sh", "-c", "true"), env={"PATH": "x"})
    text = explained(code, own, words_of_init)
    assert text is not None
    assert text.startswith("sh is in no directory of the PATH that this command was given (--env, --env-file)")
    assert "the image worker:1 has no" not in text
    named = replace(own, program=ToolProgram("worker:1", ("/x",)))
    by_path = explained(127, named, words(b"[FATAL tini (7)] exec /x failed: No such file"))
    assert by_path is not None
    assert by_path.startswith("/x does not exist in the sandbox")


@pytest.mark.parametrize(
    ("code", "command", "said", "begins"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_codes(code: int, command: tuple[str, ...], said: bytes, begins: str | None) -> None:
    text = explained(code, job(*command), words(said))
    assert (text is None) if begins is None else text is not None and text.startswith(begins), text
