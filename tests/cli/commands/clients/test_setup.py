"""`setup PROGRAM`: shown first, written on request, taken back byte for byte; real programs then ask our proxy."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from cloned_proxy.runner.setup.programs import PROGRAMS
from cloned_proxy.runner.setup.settings_file import SettingsFile
from tests.cli.program import PROGRAM, TOOL, Workspace, eventually, policy_text
from tests.net.clients import needed

PROXY = "http://127.0.0.1:18081"
BEFORE = {
    ".claude/settings.json": '// mine\n{\n  "model": "opus", // the large one\n  "sandbox": {"enabled": false,},\n}\n',
    ".codex/config.toml": '# mine\nmodel = "x"\n\n[features]\nother = true # kept\n\n[mcp_servers.a]\ncommand = "b"\n',
    ".codex/.env": "OPENAI_BASE_URL=https://api.example.com\nexport HTTP_PROXY=http://old.example:1",
    ".gemini/.env": "# no line end",
    ".config/Code/User/settings.json": '{\r\n\t"editor.tabSize": 4,\r\n\t"http.proxy": "http://old.example:1"\r\n}',
    ".config/Cursor/User/settings.json": "{}",
    ".gitconfig": "[user]\n\tname = A  # mine\n[http]\n\tsslVerify = true\n",
    ".docker/config.json": '{"auths":{"registry.example":{"auth":"c2VjcmV0"}},\n"proxies":{"other":{}}}',
}
BY_USER = [name for name, program in PROGRAMS.items() if "user" in program.scopes]


@pytest.fixture
def home(workspace: Workspace, tmp_path: Path) -> Path:
    """A home with a project and nothing else, and a workspace that knows its proxy."""
    found = tmp_path / "home"
    found.mkdir()
    workspace.environment |= {"HOME": str(found), "CLONED_EGRESS_PROXY": PROXY}
    workspace.write_policy(policy_text())
    return found


def fill(home: Path) -> None:
    for name, text in BEFORE.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def files(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("program", BY_USER)
@pytest.mark.parametrize("filled", [False, True], ids=["nothing there", "files of the user's"])
def test_a_change_is_shown_then_made_and_taken_back_byte_for_byte(
    workspace: Workspace, home: Path, program: str, *, filled: bool
) -> None:
    if filled:
        fill(home)
    before = files(home)
    shown = workspace.call("setup", program)
    assert shown.returncode == 0, shown.stderr
    assert files(home) == before
    assert "18081" in shown.stdout
    assert shown.stderr.startswith(f"nothing written; `cloned-proxy setup {program} --write` makes this change")
    assert workspace.call("setup", program, "--write").returncode == 0
    written = files(home)
    assert any(b"18081" in raw for raw in written.values())
    for name, raw in before.items():
        for line in raw.splitlines():
            assert line in written[name] or b"proxy" in line.lower() or b"enabled" in line or b"{}" in line
    if not filled:
        again = workspace.call("setup", program, "--write").stderr
        assert again.startswith(f"nothing to change: {program} is set so already")
    done = workspace.call("setup", program, "--undo")
    assert (done.returncode, "byte for byte as it was" in done.stderr) == (0, True), done.stderr
    assert files(home) == before


def test_what_is_written_is_what_the_programs_read(workspace: Workspace, home: Path) -> None:
    fill(home)
    for program in ("codex", "docker", "gemini-cli"):
        assert workspace.call("setup", program, "--write").returncode == 0
    config = tomllib.loads((home / ".codex/config.toml").read_text())
    assert config["features"] == {"other": True, "network_proxy": {"enabled": True, "domains": {"*": "allow"}}}
    assert config["sandbox_workspace_write"] == {"network_access": True}
    assert "HTTP_PROXY=http://127.0.0.1:18081\n" in (home / ".codex/.env").read_text()
    assert json.loads((home / ".docker/config.json").read_text())["proxies"] == {
        "other": {}, "default": {"httpProxy": PROXY, "httpsProxy": PROXY, "noProxy": "localhost,127.0.0.1"}
    }  # fmt: skip
    assert (home / ".gemini/.env").read_text().startswith("# no line end\nHTTP_PROXY=")


def test_codexs_own_list_of_domains_stays(workspace: Workspace, home: Path) -> None:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('[features.network_proxy]\ndomains = {"example.com" = "allow"}\n')
    assert workspace.call("setup", "codex", "--write").returncode == 0
    feature = tomllib.loads(path.read_text())["features"]["network_proxy"]
    assert feature == {"enabled": True, "domains": {"example.com": "allow"}}


def test_what_somebody_changed_since_is_kept(workspace: Workspace, home: Path) -> None:
    fill(home)
    path = home / ".claude/settings.json"
    workspace.call("setup", "claude-code", "--write")
    path.write_text(path.read_text().replace('"opus"', '"sonnet"'))
    done = workspace.call("setup", "claude-code", "--undo")
    assert (done.returncode, "what else was changed stays" in done.stderr) == (0, True)
    assert path.read_text() == BEFORE[".claude/settings.json"].replace("opus", "sonnet")
    workspace.call("setup", "claude-code", "--write")
    path.write_text(path.read_text().replace("18081", "18082", 1))
    done = workspace.call("setup", "claude-code", "--undo")
    assert (done.returncode, "what was changed stays as it is" in done.stderr) == (1, True)
    assert "18082" in path.read_text()


@pytest.mark.parametrize("again", [False, True], ids=["taken back", "written again, then taken back"])
@pytest.mark.parametrize("filled", [False, True], ids=["nothing there", "files of the user's"])
def test_a_write_that_was_cut_off_behind_its_record_is_taken_back(
    workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch, *, filled: bool, again: bool
) -> None:
    if filled:
        fill(home)
    before = files(home)
    with monkeypatch.context() as patch:
        patch.setattr(SettingsFile, "save", lambda _self: None)
        assert workspace.call("setup", "vscode", "--write").returncode == 0
    assert files(home) == before
    if again:
        assert workspace.call("setup", "vscode", "--write").returncode == 0
        assert files(home) != before
    done = workspace.call("setup", "vscode", "--undo")
    assert (done.returncode, "byte for byte as it was" in done.stderr) == (0, True), done.stderr
    assert files(home) == before


def test_scopes_are_taken_back_one_by_one(workspace: Workspace, home: Path) -> None:
    fill(home)
    before = files(home)
    project = workspace.path.parent / ".git" / "config"
    project.parent.mkdir()
    project.write_text("[core]\n\tbare = false\n")
    for scope in ("user", "project"):
        assert workspace.call("setup", "git", "--write", "--scope", scope).returncode == 0
    assert "18081" in project.read_text()
    assert workspace.call("setup", "git", "--undo", "--scope", "user").returncode == 0
    assert files(home) == before
    assert "18081" in project.read_text()
    assert workspace.call("setup", "git", "--undo").returncode == 0
    assert project.read_text() == "[core]\n\tbare = false\n"


def test_another_port_is_written_over_and_the_first_state_comes_back(workspace: Workspace, home: Path) -> None:
    fill(home)
    before = files(home)
    workspace.call("setup", "vscode", "--write")
    workspace.environment["CLONED_EGRESS_PROXY"] = "http://127.0.0.1:18082"
    assert workspace.call("setup", "vscode", "--write").returncode == 0
    assert "18082" in (home / ".config/Code/User/settings.json").read_text()
    assert workspace.call("setup", "vscode", "--undo").returncode == 0
    assert files(home) == before


def test_a_credential_stands_in_a_file_for_its_owner_alone(workspace: Workspace, home: Path) -> None:
    fill(home)
    shown = workspace.call("setup", "git", "--tool", TOOL)
    assert "demo.tool%40v1:CREDENTIAL@127.0.0.1:18081" in shown.stdout
    done = workspace.call("setup", "git", "--tool", TOOL, "--ttl", "7d", "--write")
    assert f"a credential of {TOOL} stands in it, good for 7d" in done.stderr
    path = home / ".gitconfig"
    assert "http://demo.tool%40v1:v1." in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert workspace.call("setup", "git", "--undo").returncode == 0
    assert path.read_text() == BEFORE[".gitconfig"]


REFUSED = [
    (("nano",), "setup knows no program 'nano'"),
    (("claud-code",), "did you mean claude-code?"),
    (("git", "--write", "--undo"), "opposites"),
    (("git", "--undo"), "nothing to take back"),
    (("codex", "--scope", "project"), "codex has user"),
    (("git", "--scope", "project"), "no git repository"),
    (("claude-code", "--tool", TOOL), "no place for a credential"),
    (("git", "--tool", "a b"), "not a tool id"),
    (("git", "--tool", TOOL, "--ttl", "soon"), "--ttl"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_what_cannot_be_is_said_and_nothing_is_written(
    workspace: Workspace, home: Path, words: tuple[str, ...], message: str
) -> None:
    done = workspace.call("setup", *words)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert files(home) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"sandbox": 3}', "\xff"], ids=["empty", "cut", "a list", "no object", "not UTF-8"]
)
def test_a_file_that_is_not_what_it_should_be_is_left_alone(workspace: Workspace, home: Path, text: str) -> None:
    path = home / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    done = workspace.call("setup", "claude-code", "--write")
    assert done.returncode in (1, 2), done
    assert "internal error" not in done.stderr
    assert str(path) in done.stderr
    assert path.read_bytes() == text.encode("latin-1")


def test_a_proxy_that_would_refuse_it_is_named(workspace: Workspace, home: Path) -> None:
    workspace.write_policy(policy_text(anonymous="deny"))
    assert "refuses callers without a credential" in workspace.call("setup", "git").stderr
    workspace.environment["CLONED_EGRESS_PROXY"] = "http://192.0.2.1:8081"
    assert "a port of this machine only" in workspace.call("setup", "claude-code").stderr
    del workspace.environment["CLONED_EGRESS_PROXY"]
    assert "no proxy serves" in workspace.call("setup", "git").stderr
    assert files(home) == {}


def test_the_change_as_json(workspace: Workspace, home: Path) -> None:
    told = workspace.json("setup", "git")
    assert (told["program"], told["written"], told["files"][0]["created"]) == ("git", False, True)
    assert told["files"][0]["path"] == str(home / ".gitconfig")
    assert PROXY in told["files"][0]["diff"]


# The programs themselves.


def asked(workspace: Workspace, host: str) -> None:
    """Waits until the log has the refusal of a call to this host."""
    eventually(lambda: host in workspace.run("log", "--denied").stdout, what=f"the call to {host}")


def serve(workspace: Workspace) -> None:
    del workspace.environment["CLONED_EGRESS_PROXY"]
    workspace.serve()


def test_git_asks_the_proxy(workspace: Workspace, home: Path) -> None:
    git = [needed("git"), "ls-remote", "https://git.denied.example/a.git"]
    serve(workspace)
    assert workspace.run("setup", "git", "--write").returncode == 0
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(git, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "403" in done.stderr) == (128, True), done.stderr
    asked(workspace, "git.denied.example:443")


@pytest.mark.net
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a mount namespace takes root")
def test_java_asks_the_proxy(workspace: Workspace, home: Path, tmp_path: Path) -> None:
    """In a mount namespace with a copy of Java's settings: they belong to the whole machine."""
    needed("java")
    keytool = needed("keytool")
    serve(workspace)
    plan = workspace.json("setup", "java")
    settings = Path(plan["files"][0]["path"])
    before = settings.read_bytes()
    shutil.copytree(settings.parent, tmp_path / "conf", symlinks=True)
    script = f"""
      mount --bind {tmp_path}/conf {settings.parent} &&
      {PROGRAM} setup java --write &&
      {{ {keytool} -printcert -sslserver java.denied.example:443; {PROGRAM} setup java --undo; }}
    """
    environment = workspace.environment | {"HOME": str(home)}
    words = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done
    asked(workspace, "java.denied.example:443")
    assert settings.read_bytes() == before
    assert (tmp_path / "conf" / settings.name).read_bytes() == before
