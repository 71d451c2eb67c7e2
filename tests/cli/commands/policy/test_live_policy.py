"""Edits act on a running proxy: by the command line, by hand, by SIGHUP; a broken file changes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import pytest

from tests.cli.program import Origin, Serving, Workspace, eventually, literal, policy_text

ACTS_WITHIN = 0.25
"""Seconds (docs/policy.md#the-order-of-a-decision). Counted from the moment the file has been replaced."""


def passes(serving: Serving, origin: Origin) -> bool:
    return refusal(serving, origin) is None


def refusal(serving: Serving, origin: Origin) -> str | None:
    """Why a request is refused now; a request that was under way when its rule went is cut without an answer."""
    try:
        return serving.get(origin.url()).reason
    except ConnectionResetError:  # RemoteDisconnected is one
        return "cut"


def test_allow_and_remove_act_on_the_running_proxy(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    assert not passes(serving, origin)
    assert workspace.run("allow", f"127.0.0.1:{origin.port}", "--reason", "test").returncode == 0
    eventually(lambda: passes(serving, origin), what="the new rule")
    assert workspace.run("remove", "127.0.0.1").returncode == 0
    eventually(lambda: not passes(serving, origin), what="the removal")


def test_deny_wins_over_an_allow_that_stays(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    assert passes(serving, origin)
    assert workspace.run("deny", "127.0.0.1").returncode == 0
    eventually(lambda: refusal(serving, origin) == "explicit_deny", what="the deny")


@pytest.mark.alone
@pytest.mark.parametrize("how", ["rename", "in place"])
def test_a_hand_edit_acts_at_once(workspace: Workspace, origin: Origin, how: str) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    took: list[float] = []
    for wanted in (True, False, True, False, True):
        text = policy_text(allow=[literal(origin)] if wanted else [])
        if how == "rename":
            workspace.write_policy(text)
        else:
            workspace.policy.write_text(text)
        took.append(eventually(lambda: passes(serving, origin) is wanted, what="the edit"))  # noqa: B023  called here
    # The best of them: a loaded machine delays one or the other, a broken watch leaves each to the poll of a second.
    assert min(took) < ACTS_WITHIN


def test_a_broken_file_changes_nothing_and_is_reported_everywhere(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    workspace.write_policy("version: 1\nglobal:\n  allow: ['*.com']\n")
    eventually(lambda: serving.page("/readyz").status == 503, what="not ready")
    assert passes(serving, origin)
    assert "cloned_proxy_policy_last_reload_success 0.0" in serving.page("/metrics").body
    listed = workspace.run("list")
    assert "*.com" in listed.stderr
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    eventually(lambda: serving.page("/readyz").status == 200, what="ready again")


def test_a_deleted_file_leaves_the_last_good_one_in_force(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    workspace.policy.unlink()
    eventually(lambda: serving.page("/readyz").status == 503, what="not ready")
    assert passes(serving, origin)


def test_sighup_reads_the_file_again(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    os.kill(serving.process.pid, signal.SIGHUP)
    eventually(lambda: passes(serving, origin), what="the reload")
    assert serving.process.poll() is None


def test_a_tunnel_is_cut_when_its_rule_goes(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    serving = workspace.serve()
    with socket.create_connection(("127.0.0.1", serving.port), timeout=90) as tunnel:
        tunnel.sendall(f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n".encode())
        assert tunnel.recv(4096).startswith(b"HTTP/1.1 200")
        workspace.write_policy(policy_text())
        tunnel.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert tunnel.recv(4096) == b""


def test_uses_run_out(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    assert workspace.run("allow", f"127.0.0.1:{origin.port}", "--uses", "2").returncode == 0
    eventually(lambda: passes(serving, origin), what="the lease")
    assert passes(serving, origin)
    assert serving.get(origin.url()).reason == "lease_used_up"
    assert len(origin.seen) == 2
    (rule,) = workspace.json("list")["rules"]
    assert rule["uses_left"] == 0


def test_what_is_commented_out_is_gone_and_a_deny_still_finds_its_place(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    assert serving.get(origin.url()).status == 200
    workspace.write_policy(
        f"version: 1\nanonymous: global\nglobal:\n  allow:\n    # - {literal(origin)}\n  deny:\ntools:\ntests:\n"
    )
    assert workspace.run("deny", "127.0.0.1").returncode == 0
    eventually(lambda: _refused_for(serving, origin.url()) == "explicit_deny", what="the deny")
    assert workspace.run("remove", "127.0.0.1").returncode == 0
    eventually(lambda: _refused_for(serving, origin.url()) == "ip_literal", what="the rule to be gone")


def _refused_for(serving: Serving, url: str) -> str | None:
    """The reason; None while a change of the policy cuts the call."""
    with contextlib.suppress(ConnectionError):
        return serving.get(url).reason
    return None


def test_a_slip_is_shown_with_its_line_and_a_mark_below_it(workspace: Workspace) -> None:
    workspace.write_policy("version: 1\nglobal:\n  allow:\n    - *.example.com\n")
    message = "what begins with * needs quotes; write '*.example.com'"
    for words in (("policy", "check"), ("list",), ("allow", "a.example.com")):
        done = workspace.call(*words)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        assert lines[-3].endswith(f"{workspace.policy}:4: {message}")
        assert lines[-2:] == ["        - *.example.com", "          ^"]
    told = workspace.json("policy", "check", code=2)
    assert (told["ok"], told["problems"]) == (False, [{"path": "(file)", "line": 4, "message": message}])
