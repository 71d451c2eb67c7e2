"""Presets of what the package managers of this machine are set to, asked of the real ones; and policies with one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.policyfile.preset_edit import drifted, drop_presets, use_presets
from cloned_proxy.store.workspaces.presets import DERIVED
from cloned_proxy.store.workspaces.registries import Clients, derive
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.store.workspaces.shelves import allowed, write

NOW = 1_800_000_000.0


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path / ".cloned")
    found.create()
    return found


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
