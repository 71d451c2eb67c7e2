"""README and docs/ show what a terminal shows: the transcript is run, the help text compared, each command tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from demo import __main__ as demo
from demo.tour import START, in_shell, marked, steps, with_ports
from tests.cli.program import PROGRAM, Origin, Serving, Workspace
from tests.docs.transcript import comparable

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]


def readme() -> str:
    return (ROOT / "README.md").read_text()


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_the_transcript_is_what_a_terminal_shows(workspace: Workspace, origin: Origin) -> None:
    serving: Serving = workspace.serve("--control", "127.0.0.1:0")
    ports = (serving.port, serving.control_port, serving.metrics_port, origin.port)
    real = dict(zip(("8081", "8082", "8083", "9000"), map(str, ports), strict=True))
    shown = list(steps(marked(readme(), "transcript")))
    assert len(shown) > 8, "the transcript was not found"
    assert sum(bool(step.caption) for step in shown) > 2
    for step in shown:
        if step.command == START:
            output = "\n".join(serving.banner).replace(str(PROGRAM), "cloned-proxy")
        else:
            command = with_ports(step.command, real)
            output = in_shell(
                command, program=PROGRAM, environment=workspace.environment, directory=workspace.path.parent
            )
        output = with_ports(output, {port: name for name, port in real.items()})
        output = output.replace(str(workspace.path), ".cloned")
        output = re.sub(rf"(?<=[\s:]){workspace.path.name}/", ".cloned/", output)  # as seen from beside it
        told, written = comparable(output), comparable(step.output)
        if step.command.endswith("cloned-proxy log --since 1h"):
            # An edit is recorded by the command, its reload by the proxy: either may come first.
            told, written = sorted(told), sorted(written)
        assert told == written, step.command
    assert len(origin.seen) == 1, "only the allowed call may arrive"


def test_the_demo_plays_the_transcript_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=os.environ | {"DEMO_PAUSE": "0", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    played = [line.removeprefix("$ ") for line in done.stdout.splitlines() if line.startswith("$ ")]
    shown, sandboxed = (list(steps(marked(readme(), name))) for name in ("transcript", "sandbox"))
    assert [line.split()[0] for line in played[: len(shown)]] == [step.command.split()[0] for step in shown]
    if "# No sandboxed tool is shown: " in done.stdout:
        assert played[len(shown) :] == []
    else:
        assert played[len(shown) :] == [step.command for step in sandboxed]
        outputs = (line for step in sandboxed for line in step.output.splitlines())
        wanted = [re.sub(r"\d+", r"\\d+", re.escape(line).replace(r"\.", ".")) for line in outputs]
        assert [line for line in wanted if not re.search(line, done.stdout)] == [], done.stdout
    assert "\nreached\n" in done.stdout
    assert "identity_invalid" in done.stdout
    assert "the chain holds" in done.stdout
    assert list(tmp_path.iterdir()) == []
    captions = [line for line in done.stdout.splitlines() if re.match(r"\d/\d ", line)]
    assert [line.split()[0] for line in captions] == [f"{n}/{len(captions)}" for n in range(1, len(captions) + 1)]
    assert "make serve" in done.stdout.splitlines()[-2]  # a next step at the end
    assert "\033" not in done.stdout


@pytest.mark.parametrize(
    ("terminal", "env", "coloured"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False), (False, {}, False)],
)
def test_the_demo_is_coloured_where_a_terminal_shows_it_and_nobody_minds(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, env: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert demo.coloured("text", "1") == ("\033[1mtext\033[0m" if coloured else "text")


def test_the_pauses_of_the_demo_fit_into_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With commands that take two seconds each, on a clock of its own."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.delenv("DEMO_PAUSE", raising=False)
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    shown = [step for name in ("transcript", "sandbox") for step in steps(marked(readme(), name))]
    stage = demo.Stage(shown, began=0.0)
    for step in shown:
        now += 2.0
        stage.show(step, step.command, "")
    assert 40 < now < 45


def test_the_help_text_is_the_programs(workspace: Workspace) -> None:
    done = workspace.run("--help", env={"COLUMNS": "100"})
    assert comparable(marked(page("commands.md"), "help")) == comparable(f"$ cloned-proxy --help\n{done.stdout}")


def test_every_command_that_the_documents_name_is_run_by_a_test() -> None:
    text = readme() + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    named = set(re.findall(r"cloned-proxy ((?:policy|audit|ca) [a-z-]+|[a-z]+)", text))
    assert "policy check" in named, "no command was found"
    folders = [ROOT / "tests" / name for name in ("cli", "runner", "control")]
    tests = "\n".join(path.read_text() for folder in folders for path in folder.rglob("test_*.py"))
    missing = [name for name in named if ", ".join(f'"{word}"' for word in name.split()) not in tests]
    # `serve` has a method of its own in the tests, and `HOST` stands for a word in prose.
    assert set(missing) - {"serve"} == set()


def test_the_policy_that_the_documents_show_is_valid(workspace: Workspace) -> None:
    example = re.search(r"^```yaml\n(version: .*?)^```$", page("policy.md"), re.MULTILINE | re.DOTALL)
    assert example is not None
    workspace.write_policy(example[1])
    assert workspace.run("policy", "check").returncode == 0


def test_the_readme_is_a_front_door() -> None:
    assert len(readme().splitlines()) <= 200, "how-to text belongs into docs/"
