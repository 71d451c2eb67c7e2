"""Presets as somebody at a terminal meets them, and as a running proxy follows them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from tests.cli.program import TOOL, Workspace, eventually

PRESET = "name: mine\nabout: ours\nsource: https://example.com/\nchecked: {checked}\nallow: [{hosts}]\n"


def put(workspace: Workspace, hosts: str, checked: str = "2026-11-27") -> None:
    directory = workspace.path / "presets"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "mine.yaml").write_text(PRESET.format(checked=checked, hosts=hosts))


def test_a_preset_from_the_list_to_its_removal(workspace: Workspace) -> None:
    names = {entry["name"]: entry for entry in json.loads(workspace.call("preset", "list", "--json").stdout)}
    assert names["openai"]["hosts"] == ["api.openai.com"]
    assert names["pypi"]["from"] == "derived"
    shown = workspace.call("preset", "show", "openai").stdout
    assert "allow    api.openai.com:443" in shown
    assert "source   https://" in shown
    assert workspace.call("allow", "--preset", "openai", "--tool", TOOL).returncode == 0
    (rule,) = json.loads(workspace.call("list", "--tool", TOOL, "--json").stdout)["rules"]
    assert (rule["host"], rule["origin"]) == ("api.openai.com", "preset openai")
    assert workspace.call("explain", "https://api.openai.com/", "--tool", TOOL).returncode == 0
    refused = workspace.call("remove", "api.openai.com", "--tool", TOOL)
    assert refused.returncode == 1
    assert f"`cloned-proxy remove --preset openai --tool {TOOL}`" in refused.stderr
    assert workspace.call("remove", "--preset", "openai", "--tool", TOOL).returncode == 0
    again = workspace.call("remove", "--preset", "openai", "--tool", TOOL)
    assert again.returncode == 1
    assert "does not use openai" in again.stderr


def test_bad_input_is_told_with_its_fix(workspace: Workspace) -> None:
    for words, said in (
        (("allow", "--preset", "opnai"), "did you mean openai?"),
        (("allow",), "name a HOST"),
        (("remove",), "name a HOST"),
        (("allow", "a.example.com", "--preset", "openai"), "stands alone"),
        (("allow", "--preset", "openai", "--for", "5m"), "stands alone"),
        (("preset", "show", "../policy"), "there is no preset"),
    ):
        done = workspace.call(*words)
        assert done.returncode == 2, words
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_check_warns_of_an_old_one_and_refuses_a_broken_one(workspace: Workspace) -> None:
    year_ago = (datetime.now(UTC) - timedelta(days=400)).date().isoformat()
    put(workspace, "a.example.com", checked=year_ago)
    workspace.write_policy("version: 1\nglobal: {use: [mine]}\n")
    told = workspace.call("policy", "check", "--json")
    assert told.returncode == 0
    (warning,) = json.loads(told.stdout)["warnings"]
    assert "checked 400 days ago" in warning
    assert warning in told.stderr
    put(workspace, "10.0.0.1")
    refused = workspace.call("policy", "check")
    assert refused.returncode == 2
    assert "global.use[0]" in refused.stderr
    assert "presets/mine.yaml" in refused.stderr
    (entry,) = (e for e in json.loads(workspace.call("preset", "list", "--json").stdout) if e["name"] == "mine")
    assert "never addresses" in entry["about"]


def test_a_running_proxy_follows_a_preset_by_itself(workspace: Workspace) -> None:
    put(workspace, "a.invalid")
    workspace.write_policy("version: 1\nanonymous: global\nglobal: {use: [mine]}\n")
    serving = workspace.serve()
    assert serving.get("http://b.invalid/").status == 403
    put(workspace, "b.invalid")
    # It passes the policy from now on; that the name leads nowhere is another refusal.
    eventually(lambda: serving.get("http://b.invalid/").status == 502)
    assert serving.get("http://a.invalid/").status == 403
    put(workspace, "10.0.0.1")
    eventually(lambda: "never addresses" in serving.page("/readyz").body)
    assert serving.get("http://b.invalid/").status == 502, "the last good one stays"
