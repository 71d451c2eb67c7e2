"""Edits act on a running proxy: by the command line, by hand, by SIGHUP; a broken file changes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import pytest

from tests.cli.program import Origin, Serving, Workspace, eventually, literal, policy_text

ACTS_WITHIN = 0.25
"""Seconds, contract section 3. Counted from the moment the file has been replaced."""


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
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as tunnel:
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
