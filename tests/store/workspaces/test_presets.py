"""Presets on disk: the shelf, the live policy that follows it, and derived ones from the user's real clients."""

from __future__ import annotations

import ast
import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.reading.read_preset import preset_rules
from cloned_proxy.policy.terms.rule import PatternKind
from cloned_proxy.share import share_path
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.live_policy import LivePolicy
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.policyfile.preset_edit import drifted, drop_presets, use_presets
from cloned_proxy.store.workspaces.presets import DERIVED, SHIPPED, PresetShelf
from cloned_proxy.store.workspaces.registries import Clients, derive
from cloned_proxy.store.workspaces.workspace import Workspace

NOW = 1_800_000_000.0
PRESET = "name: {name}\nabout: for tests\nsource: https://example.com/\nchecked: 2026-11-27\nallow: [{hosts}]\n"


def write(shelf: PresetShelf, name: str, *hosts: str) -> Path:
    assert shelf.local is not None
    shelf.local.mkdir(exist_ok=True)
    path = shelf.local / f"{name}.yaml"
    path.write_text(PRESET.format(name=name, hosts=", ".join(hosts)))
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path / ".cloned")
    found.create()
    return found


@pytest.mark.parametrize("name", SHIPPED.names())
def test_each_shipped_preset_is_valid_and_narrow(name: str) -> None:
    preset = SHIPPED.read(name)
    assert preset.source.startswith("https://")
    for rule in preset_rules(preset):
        assert rule.pattern.kind is PatternKind.EXACT or rule.methods is not None, f"{rule.pattern} is a wildcard"
        assert rule.ports == {443}


def test_no_registry_is_shipped() -> None:
    """They come from the user's own settings, so that mirrors work and no list of ours grows old."""
    assert not set(SHIPPED.names()) & set(DERIVED)
    text = "\n".join(path.read_text() for path in share_path("config", "presets").glob("*.yaml"))
    for word in ("pypi.", "pythonhosted", "npmjs", "crates.io", "debian.org"):
        assert word not in text


def test_a_local_preset_wins_by_name_even_when_it_is_broken(workspace: Workspace) -> None:
    shelf = workspace.presets
    assert not shelf.is_local("openai")
    path = write(shelf, "openai", "models.example.com")
    assert shelf.is_local("openai")
    assert shelf.read("openai").allow == ("models.example.com",)
    path.write_text("allow: [")
    with pytest.raises(StoreError, match=r"openai\.yaml"):
        shelf.read("openai")
    path.unlink()
    path.symlink_to("nowhere.yaml")
    with pytest.raises(StoreError, match=r"openai\.yaml"):
        shelf.read("openai")


@pytest.mark.parametrize("name", ["../policy", "/etc/passwd", "..", "a/b"])
def test_a_name_leads_nowhere_else(workspace: Workspace, name: str) -> None:
    assert workspace.presets.path_of(name) is None
    assert isinstance(workspace.presets.load([name])[name], str)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  a thread sets it
            await asyncio.sleep(0.005)


def allowed(policy: Policy | None) -> set[str]:
    return {str(rule.pattern) for rule in policy.rules} if policy is not None else set()


async def test_a_change_of_a_preset_acts_and_a_broken_one_does_not(workspace: Workspace) -> None:
    shelf = workspace.presets
    path = write(shelf, "mine", "a.test")
    workspace.policy_file.write_text("version: 1\nglobal: {use: [mine]}\n")
    live = LivePolicy(workspace.policy_file, presets=shelf)
    await live.start()
    try:
        version = live.current.version if live.current is not None else ""
        assert allowed(live.current) == {"a.test"}
        write(shelf, "mine", "a.test", "b.test")
        await until(lambda: allowed(live.current) == {"a.test", "b.test"})
        assert live.current is not None
        assert live.current.version == version, "the version is that of the policy file"
        path.write_text("name: mine\n")
        await until(lambda: live.last_error is not None)
        assert allowed(live.current) == {"a.test", "b.test"}
        path.unlink()
        await until(lambda: "there is no preset" in str(live.last_error))
        assert allowed(live.current) == {"a.test", "b.test"}
        write(shelf, "mine", "c.test")
        await until(lambda: allowed(live.current) == {"c.test"})
        assert live.last_error is None
    finally:
        await live.stop()


async def test_a_preset_that_comes_after_the_policy_is_noticed(workspace: Workspace) -> None:
    workspace.policy_file.write_text("version: 1\nglobal: {allow: [a.test]}\n")
    live = LivePolicy(workspace.policy_file, presets=workspace.presets)
    await live.start()
    try:
        workspace.policy_file.write_text("version: 1\nglobal: {use: [later]}\n")
        await until(lambda: live.last_error is not None)
        write(workspace.presets, "later", "b.test")
        await until(lambda: allowed(live.current) == {"b.test"})
    finally:
        await live.stop()


@pytest.mark.checkout
def test_whoever_reads_the_policy_knows_the_workspaces_presets() -> None:
    """The default shelf knows the shipped ones alone: another reader would see other rules than the proxy."""
    package = Path(__file__).parents[3] / "cloned_proxy"
    wanted = {"load_policy": 3, "policy_from_bytes": 4, "LivePolicy": 2, "PolicyEditor": 2, "PolicyFollower": 2}
    found, wrong = 0, []
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name in wanted and isinstance(node, ast.Call):
                found += 1
                given = len(node.args) >= 3 or any(word.arg == "presets" for word in node.keywords)
                if not given:
                    wrong.append(f"{file.relative_to(package)}:{node.lineno} {name}")
    assert wrong == []
    assert found > 10


# Derived from the user's clients. The hosts are of the settings that the test writes.


def clients(home: Path, **environ: str) -> Clients:
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.lower().startswith(("pip_", "npm_", "uv_"))}
    return Clients({**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), **environ}, home)


def hosts(name: str, asked: Clients) -> dict[str, str]:
    return {f"{each.host}:{each.port}": each.where for each in derive(name, asked)}


@pytest.fixture(scope="module")
def python3(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which `python3` has a pip, as a user's does: the environment of these tests has one without."""
    directory = tmp_path_factory.mktemp("bin")
    system = (shutil.which("python3", path=place) for place in ("/usr/local/bin", "/usr/bin"))
    for candidate in (sys.executable, *system):
        if candidate and subprocess.run([candidate, "-m", "pip", "--version"], capture_output=True).returncode == 0:  # noqa: PLW1510
            (directory / "python3").symlink_to(candidate)
            return f"{directory}:{os.environ['PATH']}"
    pytest.skip("no python3 with pip on this machine")


def test_pip_says_its_own_index_and_its_files(tmp_path: Path, python3: str) -> None:
    config = tmp_path / "empty.conf"
    config.write_text("")
    found = hosts("pypi", clients(tmp_path / "home", PATH=python3, PIP_CONFIG_FILE=str(config)))
    assert len(found) >= 2, "the index, and where its files lie"


def test_a_mirror_takes_the_place_of_the_default(tmp_path: Path, python3: str) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://user:secret@mirror.corp.example:8443/simple\n")
    found = hosts("pypi", clients(tmp_path / "home", PATH=python3, PIP_CONFIG_FILE=str(config)))
    assert list(found) == ["mirror.corp.example:8443"]
    assert "secret" not in str(found)


def test_an_extra_index_stands_beside_the_default(tmp_path: Path, python3: str) -> None:
    found = hosts(
        "pypi",
        clients(
            tmp_path / "home", PATH=python3, PIP_CONFIG_FILE="/dev/null", PIP_EXTRA_INDEX_URL="https://more.example/s"
        ),
    )
    assert "more.example:443" in found
    assert len(found) >= 3


def test_a_file_index_and_an_address_are_no_hosts(tmp_path: Path, python3: str) -> None:
    with pytest.raises(StoreError, match="pip names no registry"):
        derive(
            "pypi", clients(tmp_path / "h", PATH=python3, PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL="file:///srv/s")
        )
    with pytest.raises(StoreError, match="pip names no registry"):
        derive(
            "pypi", clients(tmp_path / "h", PATH=python3, PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL="http://10.0.0.1/")
        )


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_says_its_registry_and_those_of_scopes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    asked = clients(home)
    (home / ".npmrc").write_text("registry=https://npm.corp.example/\n@acme:registry=https://acme.example:4873/\n")
    assert hosts("npm", asked) == {
        "acme.example:4873": f"npm, {home / '.npmrc'}",
        "npm.corp.example:443": f"npm, {home / '.npmrc'}",
    }


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_project_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that can write the project's .npmrc must not be able to choose what the next preset opens."""
    project = tmp_path / "project"
    project.mkdir()
    (project / ".npmrc").write_text("registry=https://evil.example/\n")
    (project / "package.json").write_text("{}")
    monkeypatch.chdir(project)
    assert not any("evil" in host for host in hosts("npm", clients(tmp_path / "home")))


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is not installed")
def test_apt_says_its_sources(tmp_path: Path) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text("deb http://deb.corp.example/debian stable main\ndeb file:///srv/debian stable main\n")
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "-";\n')
    found = hosts("debian", clients(tmp_path / "home", APT_CONFIG=str(config)))
    assert found == {"deb.corp.example:80": f"apt, {sources}"}


def test_cargo_says_what_it_is_set_to_and_what_it_has_used(tmp_path: Path) -> None:
    """The files are those of cargo 1.8x: config.toml, and the index that it keeps after its first fetch."""
    home = tmp_path / "home"
    asked = clients(home, CARGO_HOME="")
    cargo = home / ".cargo"
    index = cargo / "registry" / "index" / "index.corp.example-6f17d22bba15001f"
    index.mkdir(parents=True)
    (index / "config.json").write_text('{"dl": "https://static.corp.example/crates/{crate}", "api": null}')
    (cargo / "config.toml").write_text('[registries.acme]\nindex = "sparse+https://crates.acme.example/index/"\n')
    found = set(hosts("cargo", asked))
    assert found == {"crates.acme.example:443", "index.corp.example:443", "static.corp.example:443"}


@pytest.mark.parametrize("name", DERIVED)
def test_a_client_that_is_not_there_is_an_error_with_a_fix(tmp_path: Path, name: str) -> None:
    nothing = tmp_path / "bin"
    nothing.mkdir()
    with pytest.raises(StoreError, match="names no registry on this machine"):
        derive(name, clients(tmp_path / "home", PATH=str(nothing), CARGO_HOME=str(tmp_path / "none")))


# Taken into a policy.


def used(workspace: Workspace, *names: str, tool: str | None = None, asked: Clients | None = None) -> None:
    use_presets(EditService(workspace), names, tool=tool, actor="test", why="", now=NOW, clients=asked)


def loaded(workspace: Workspace) -> Policy:
    return load_policy(workspace.policy_file, NOW, workspace.presets)


def acme(home: Path, index: str) -> Clients:
    asked = clients(home, CARGO_HOME=str(home / "cargo"))
    (home / "cargo").mkdir(exist_ok=True)
    (home / "cargo" / "config.toml").write_text(f'[registries.acme]\nindex = "sparse+https://{index}/index/"\n')
    return asked


def test_comments_stay_and_each_name_is_there_once(workspace: Workspace) -> None:
    workspace.policy_file.write_text("version: 1  # ours\nglobal:\n  allow: []  # none\n")
    used(workspace, "openai", "anthropic")
    used(workspace, "openai", tool="a@v1")
    used(workspace, "openai", tool="a@v1")
    assert workspace.policy_file.read_text() == (
        "version: 1  # ours\nglobal:\n  allow: []  # none\n  use:\n    - openai\n    - anthropic\n"
        "tools:\n  a@v1:\n    use:\n      - openai\n"
    )
    result, missing = drop_presets(EditService(workspace), ["openai", "gemini"], tool=None, actor="test", why="")
    assert result.changed
    assert missing == ("gemini",)
    assert "  use:\n    - anthropic\ntools:" in workspace.policy_file.read_text()
    with AuditLog(workspace.state_db) as log:
        told = [entry.body["summary"] for entry in log.entries(types=("policy",), last=9)]
    assert sorted(told) == sorted(["use openai, anthropic", "use openai for a@v1", "no longer use openai, gemini"])


def test_a_derived_preset_is_written_once_and_followed_only_on_demand(workspace: Workspace, tmp_path: Path) -> None:
    home = tmp_path / "home"
    used(workspace, "cargo", asked=acme(home, "one.example"))
    assert allowed(loaded(workspace)) == {"one.example"}
    moved = acme(home, "two.example")
    assert allowed(loaded(workspace)) == {"one.example"}, "a changed setting opens nothing by itself"
    assert drifted(workspace, "cargo", moved) == ("two.example",)
    used(workspace, "cargo", asked=moved)
    assert allowed(loaded(workspace)) == {"two.example"}
    assert drifted(workspace, "cargo", moved) == ()


def test_one_written_by_hand_is_used_as_it_is(workspace: Workspace, tmp_path: Path) -> None:
    write(workspace.presets, "cargo", "mirror.example.com")
    used(workspace, "cargo", asked=acme(tmp_path / "home", "one.example"))
    assert allowed(loaded(workspace)) == {"mirror.example.com"}
    assert drifted(workspace, "cargo") == ()


def test_an_edit_that_fails_leaves_no_preset_behind(workspace: Workspace, tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused = 'version: 1\ntests: [{deny: ["https://one.example/"]}]\nanonymous: global\n'
    workspace.policy_file.write_text(refused)
    with pytest.raises(PolicyError, match="should be denied"):
        used(workspace, "cargo", asked=acme(home, "one.example"))
    assert workspace.policy_file.read_text() == refused
    assert not workspace.presets.is_local("cargo")
    used(workspace, "cargo", asked=acme(home, "zero.example"))
    with pytest.raises(PolicyError, match="should be denied"):
        used(workspace, "cargo", asked=acme(home, "one.example"))
    assert allowed(loaded(workspace)) == {"zero.example"}


def test_a_dry_run_writes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    result, derived = use_presets(
        EditService(workspace),
        ["cargo"],
        tool=None,
        actor="test",
        why="",
        now=NOW,
        dry_run=True,
        clients=acme(tmp_path / "home", "one.example"),
    )
    assert "+    - cargo" in result.diff
    assert [each.host for each in derived[0].found] == ["one.example"]
    assert not workspace.policy_file.exists()
    assert not (workspace.root / "presets").exists()


def test_hosts_of_a_preset_are_neither_edited_nor_made_leases(workspace: Workspace) -> None:
    from cloned_proxy.store.policyfile.policy_entry import Addition, Entry  # noqa: PLC0415  used here alone

    used(workspace, "openai")
    service, before = EditService(workspace), workspace.policy_file.read_text()
    assert service.remove(["api.openai.com"], tool=None, actor="test", why="").missing == ("api.openai.com",)
    lease = Entry("api.openai.com", ports=(443,), max_uses=1)
    assert not service.add([Addition((lease,))], actor="test", why="").changed
    assert workspace.policy_file.read_text() == before
    assert allowed(loaded(workspace)) == {"api.openai.com"}
