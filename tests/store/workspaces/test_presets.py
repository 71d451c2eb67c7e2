"""Presets on disk: the shelf, the live policy that follows it, and derived ones from the user's real clients."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cloned_proxy.policy.reading.read_preset import preset_rules
from cloned_proxy.policy.terms.rule import PatternKind
from cloned_proxy.share import share_path
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.live_policy import LivePolicy
from cloned_proxy.store.workspaces.presets import DERIVED, SHIPPED
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.store.workspaces.shelves import allowed, write
from tests.waiting import until


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
