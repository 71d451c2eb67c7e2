"""What is told after a run: of files that this machine acts upon, and with --diff of all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloned_proxy.cli.commands.sandbox.project_report import Reports, lines_of
from cloned_proxy.runner.project import snapshot as snapshots
from cloned_proxy.runner.project import survey as surveys
from cloned_proxy.runner.project.aftermath import Aftermath, looking_back
from cloned_proxy.runner.project.changes import GuardedKind, Letter, kind_of
from cloned_proxy.runner.project.place import ProjectAccess
from cloned_proxy.runner.project.snapshot import FileChange, Spool, TreeSnapshot, _text
from cloned_proxy.runner.project.survey import Look, look_through
from cloned_proxy.runner.project.view import ProjectWish, view_of
from cloned_proxy.runner.values.errors import SandboxInputError

KINDS: list[tuple[str, GuardedKind | None]] = [
    ("src/main.py", None),
    ("Makefile", GuardedKind.RECIPE),
    ("sub/GNUmakefile", GuardedKind.RECIPE),
    ("web/package.json", GuardedKind.RECIPE),
    ("web/vite.config.ts", GuardedKind.RECIPE),
    (".github/workflows/ci.yml", GuardedKind.RECIPE),
    ("docker/Dockerfile.dev", GuardedKind.RECIPE),
    ("CLAUDE.md", GuardedKind.RECIPE),
    ("node_modules/x/package.json", None),
    ("node_modules/x/.vscode/tasks.json", None),
    ("node_modules/.bin/tsc", GuardedKind.RECIPE),
    (".venv/bin/python", GuardedKind.RECIPE),
    (".venv/lib/python3.13/site-packages/x.pth", GuardedKind.RECIPE),
    (".venv/lib/python3.13/site-packages/x/setup.py", None),
    (".vscode", GuardedKind.TRUSTED),
    ("sub/.vscode/tasks.json", GuardedKind.TRUSTED),
    (".mcp.json", GuardedKind.TRUSTED),
    (".git", GuardedKind.REPOSITORY),
    ("bare/HEAD", GuardedKind.REPOSITORY),
    ("node_modules/x/.git", GuardedKind.REPOSITORY),
    (".git/hooks/pre-commit", GuardedKind.TRUSTED),
    (".git/commondir", GuardedKind.TRUSTED),
    (".git/modules/a/config", GuardedKind.TRUSTED),
    (".git/objects/aa/bb", None),
    (".git/refs/heads/config", None),
    (".git/index", None),
    ("sub/.cloned/policy.yaml", GuardedKind.WORKSPACE),
]


@pytest.mark.parametrize(("path", "kind"), KINDS, ids=[row[0] for row in KINDS])
def test_kinds(path: str, kind: GuardedKind | None) -> None:
    assert kind_of(path) is kind


@pytest.fixture
def project(tmp_path: Path) -> Path:
    found = tmp_path / "code"
    (found / ".cloned").mkdir(parents=True)
    (found / "Makefile").write_text("all:\n")
    (found / "text").write_text("".join(f"line {number}\n" for number in range(8)))
    (found / "gone").write_text("was here\n")
    return found


def _after(project: Path, change: object, *, every: bool = False, access: str = "rw") -> Aftermath:
    told: list[Aftermath] = []
    view = view_of(ProjectWish(access=ProjectAccess(access)), project / ".cloned", (), project)
    with looking_back(view, told.append, every_file=every, spool=project / ".cloned/run"):
        assert callable(change)
        change()
    (aftermath,) = told
    return aftermath


def test_nothing_is_said_of_a_run_that_changed_nothing_of_note(project: Path) -> None:
    aftermath = _after(project, lambda: (project / "text").write_text("other"))
    assert list(lines_of(aftermath)) == []


def test_what_acts_by_itself_is_told_with_the_command_that_removes_it(project: Path) -> None:
    def change() -> None:
        (project / ".vscode").mkdir()
        (project / ".vscode/tasks.json").write_text("{}")
        (project / "sub/.cloned").mkdir(parents=True)
        (project / "new thing/.git").mkdir(parents=True)
        (project / "Makefile").write_text("all: evil\n")
        os.mkfifo(project / "door")

    lines = list(lines_of(_after(project, change)))
    assert lines[1:5] == ["  A .vscode", "  A new thing/.git", "  A sub/.cloned",
                          f"  to remove what is new: rm -r -- {project}/.vscode '{project}/new thing/.git' {project}/sub/.cloned"]  # fmt: skip  # noqa: E501
    assert lines[5].endswith(": M Makefile")
    assert lines[6].endswith(": door")


def test_a_change_under_the_same_size_and_time_is_seen(project: Path) -> None:
    makefile = project / "Makefile"
    before = makefile.stat()

    def change() -> None:
        makefile.write_text("ALL:\n")
        os.utime(makefile, ns=(before.st_atime_ns, before.st_mtime_ns))

    aftermath = _after(project, change, every=True)
    assert [change.path for change, _ in aftermath.noteworthy] == ["Makefile"]
    assert aftermath.files is not None
    assert aftermath.files[0].lines[-2:] == ("-all:", "+ALL:")


def test_the_report_comes_however_the_run_ends(project: Path) -> None:
    told: list[Aftermath] = []
    view = view_of(ProjectWish(access=ProjectAccess.READ_WRITE), project / ".cloned", (), project)

    def interrupted() -> None:
        with looking_back(view, told.append, every_file=False, spool=project / ".cloned/run"):
            (project / "Makefile").unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [line.endswith(": D Makefile") for line in lines_of(told[0])] == [True]


def test_what_cannot_be_looked_through_afterwards_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change() -> None:
        monkeypatch.setattr(surveys, "MAX_DEPTH", 3)
        (project / "1/2/3/4/5").mkdir(parents=True)

    (line,) = lines_of(_after(project, change))
    assert "cannot be looked through after the run" in line


def test_the_difference_of_every_kind_of_file(project: Path) -> None:
    (project / "binary").write_bytes(b"\0old")
    (project / "link").symlink_to("text")
    (project / "touched").write_text("same")
    (project / ".git").mkdir()

    def change() -> None:
        (project / "text").write_text("".join(f"line {number}\n" for number in range(8) if number != 3))
        (project / "gone").unlink()
        (project / "made/deep").mkdir(parents=True)
        (project / "made/deep/new").write_text("\x1b[31mred\n")
        (project / "binary").write_bytes(b"\0newer")
        (project / "link").unlink()
        (project / "link").symlink_to("/etc/passwd")
        (project / "touched").write_text("same")
        for name in ("HEAD", "index"):
            (project / ".git" / name).write_text("x")
        for number in range(3):
            (project / "node_modules" / str(number)).mkdir(parents=True)
            (project / "node_modules" / str(number) / "x.js").write_text("x")

    files = _after(project, change, every=True).files
    assert files is not None
    told = {file.path: (file.letter, file.before, file.after, file.count) for file in files}
    assert told == {
        ".git": ("M", None, None, 2),
        "binary": ("M", 4, 6, 1),
        "gone": ("D", 9, None, 1),
        "link": ("M", 4, 11, 1),
        "made/deep/new": ("A", None, 9, 1),
        "node_modules": ("M", None, None, 3),
        "text": ("M", 56, 49, 1),
    }
    lines = {file.path: file.lines for file in files}
    assert "-line 3" in lines["text"]
    assert lines["gone"][-1] == "-was here"
    assert lines["binary"] == lines["link"] == ()
    assert "root:" not in str(files), "what a planted link leads to is not read"


def test_a_changed_mode_is_shown(project: Path) -> None:
    (project / "text").chmod(0o644)
    lines = list(lines_of(_after(project, lambda: (project / "text").chmod(0o4755), every=True)))
    assert [line for line in lines if line.startswith("M text")] == ["M text  56 bytes, -rw-r--r-- -> -rwsr-xr-x"]


def test_without_a_writable_project_there_is_a_difference_too(project: Path) -> None:
    aftermath = _after(project, lambda: None, every=True, access="ro")
    assert list(lines_of(aftermath)) == ["cloned-proxy: the run changed no file"]


def test_a_fifo_in_the_place_of_a_file_does_not_block(project: Path) -> None:
    def change() -> None:
        (project / "text").unlink()
        os.mkfifo(project / "text")

    files = _after(project, change, every=True).files
    assert files is not None
    assert (files[0].path, files[0].letter, files[0].note) == ("text", "M", "not a regular file")


@pytest.mark.parametrize("swap", ["link", "fifo"])
def test_a_file_that_turns_into_something_else_while_it_is_looked_at_is_not_read(
    project: Path, tmp_path: Path, swap: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("not the tool's to show\n")
    seen: list[bytes | None] = []

    def visit(look: Look) -> None:
        if look.path == "text":
            look.entry.stat(follow_symlinks=False)  # what is known of it is of before
            (project / "text").unlink()
            (project / "text").symlink_to(outside) if swap == "link" else os.mkfifo(project / "text")
            seen.append(_text(look, 100))

    look_through(project, visit=visit)
    assert seen == [None]


def test_a_directory_that_became_a_link_is_not_entered(project: Path, tmp_path: Path) -> None:
    (project / "d").mkdir()
    (project / "d/file").write_text("mine\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("not the tool's to show\n")

    def change() -> None:
        (project / "d").rename(project / "e")
        (project / "d").symlink_to(outside)

    text = "\n".join(lines_of(_after(project, change, every=True)))
    assert "D d/file" in text
    assert "not the tool's to show" not in text


def test_bounds_of_what_is_kept_and_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MAX_LINES", 5)
    files = _after(project, lambda: (project / "text").write_text("other\n" * 50), every=True).files
    assert files is not None
    assert (len(files[0].lines), files[0].note) == (5, "only the first 5 lines of the difference")
    monkeypatch.setattr(snapshots, "MAX_KEPT", 10)
    files = _after(project, lambda: (project / "text").write_text("short\n"), every=True).files
    assert files is not None
    assert (files[0].lines, files[0].note) == ((), "not text, too large, or not kept")


def test_nothing_is_left_of_what_was_kept(project: Path) -> None:
    with Spool(project / ".cloned/run") as spool:
        look_through(project, visit=TreeSnapshot(spool).keep)
        assert list((project / ".cloned/run").iterdir()) == []


def test_what_a_tool_wrote_cannot_drive_the_terminal(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = (FileChange("a\x1b[2J", Letter.ADDED, None, 3, lines=("+\x1b]0;x\x07",)),)
    with Reports() as reports:
        reports.add(Aftermath(project, files=files))
        assert capfd.readouterr().err == "", "the tool may still have the terminal"
    told = capfd.readouterr().err
    assert "A a\\x1b[2J" in told
    assert "\x1b" not in told


def test_a_project_that_cannot_be_looked_through_is_refused_before_the_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "MAX_ENTRIES", 2)
    with pytest.raises(SandboxInputError, match="more than 2 entries"):
        _after(project, lambda: None)
