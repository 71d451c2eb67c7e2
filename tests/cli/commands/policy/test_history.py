"""policy history, show, restore: against a proxy that runs."""

from __future__ import annotations

import time

from tests.cli.program import Origin, Workspace, eventually, literal, policy_text


def test_a_roll_back_acts_on_a_running_proxy_and_hand_edits_are_in_the_history(
    workspace: Workspace, origin: Origin
) -> None:
    open_text = policy_text(allow=[literal(origin)])
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    workspace.write_policy(open_text)  # as by hand
    eventually(lambda: serving.get(origin.url()).status == 200)
    assert workspace.run("remove", "127.0.0.1", "--reason", "too wide").returncode == 0
    eventually(lambda: serving.get(origin.url()).status == 403)

    history = workspace.json("policy", "history")
    told = [(each["actor"].partition(":")[0], each["why"]) for each in history]
    assert told == [("cli", "too wide"), ("file", ""), ("file", "")]
    opened = history[1]["version"]
    assert workspace.run("policy", "show", opened).stdout == open_text
    assert "+    - {host: 127.0.0.1" in workspace.run("policy", "show", opened, "--diff").stdout

    assert "127.0.0.1" in workspace.run("policy", "restore", opened, "--dry-run").stdout
    assert serving.get(origin.url()).status == 403
    assert workspace.run("policy", "restore", opened, "--reason", "needed").returncode == 0
    eventually(lambda: serving.get(origin.url()).status == 200)
    assert workspace.policy.read_text() == open_text
    time.sleep(0.3)  # the proxy's own record of the reload adds no second version
    history = workspace.json("policy", "history")
    assert len(history) == 4
    assert (history[0]["version"], history[0]["why"]) == (opened, "needed")


def test_an_unknown_version_names_the_way_to_find_one(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    workspace.call("allow", "api.example.com")
    for command in ("show", "restore"):
        done = workspace.call("policy", command, "000000000000")
        assert done.returncode == 2
        assert "policy history" in done.stderr


def test_a_suggestion_is_a_diff_that_nobody_wrote(workspace: Workspace) -> None:
    workspace.write_policy("# ours\n" + policy_text())
    serving = workspace.serve()
    for number in range(3):
        assert serving.get(f"http://api.example.com/items/{number}").status == 403
    serving.get("http://localhost/")
    before = workspace.policy.read_text()
    eventually(lambda: workspace.json("policy", "suggest")["suggested"])
    done = workspace.run("policy", "suggest", "--since", "1h")
    assert done.returncode == 0
    assert '+    - {host: api.example.com, ports: [80], methods: [GET], paths: ["/items/*"]}' in done.stdout
    assert "3 denied" in done.stderr
    assert "localhost" not in done.stdout
    assert "localhost:80: a name of a local network" in done.stderr
    assert workspace.policy.read_text() == before
    assert workspace.run("policy", "suggest", "--tool", "nobody@v1").stdout == ""
    assert workspace.run("policy", "suggest", "--since", "soon").returncode == 2


def test_what_a_test_of_the_policy_forbids_is_refused_and_the_rest_suggested(workspace: Workspace) -> None:
    forbids = "tests:\n  - deny: ['http://never.example.com/']\n"
    workspace.write_policy(policy_text() + forbids)
    serving = workspace.serve()
    for host in ("never.example.com", "api.example.com"):
        assert serving.get(f"http://{host}/").status == 403
    eventually(lambda: len(workspace.json("policy", "suggest")["suggested"]) == 1)
    found = workspace.json("policy", "suggest")
    assert [each["entry"]["host"] for each in found["suggested"]] == ["api.example.com"]
    (refused,) = found["refused"]
    assert (refused["what"], "should be denied" in refused["why"]) == ("never.example.com", True)
    assert "api.example.com" in found["diff"]
    assert "never.example.com" not in found["diff"]
