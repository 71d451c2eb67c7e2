"""`serve` with notifications: a real receiver, a stand-in for notify-send, and traffic that knows nothing of either."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from cloned_proxy.notify import webhook
from tests.cli.program import PROGRAM, Serving, Workspace, eventually
from tests.notify.receiver import SECRET, Receiver

# Stands in for the program of libnotify-bin: takes the same words, and shows them to the test instead of a desktop.
NOTIFY_SEND = '#!/bin/sh\nprintf "%s\\0" "$@" >> "$CLONED_TEST_SHOWN"\n'
POLICY = "version: 1\nanonymous: global\nglobal: {allow: [allowed.invalid]}\n"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def config(workspace: Workspace, text: str) -> None:
    workspace.write_policy(POLICY)
    path = workspace.path / "config.yaml"
    path.write_text(text)
    path.chmod(0o600)


def notifiers(workspace: Workspace) -> list[int]:
    """The process ids of those that notify for this workspace."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it is gone
            continue
        if b"cloned_proxy.notify" in words and str(workspace.path).encode() in words:
            found.append(int(directory.name))
    return found


def test_a_denial_reaches_desktop_and_receiver_once(workspace: Workspace, receiver: Receiver, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    program = tmp_path / "bin" / "notify-send"
    program.parent.mkdir()
    program.write_text(NOTIFY_SEND)
    program.chmod(0o755)
    workspace.environment["PATH"] += f":{program.parent}"
    workspace.environment["CLONED_TEST_SHOWN"] = str(shown)
    config(
        workspace,
        f"notify:\n  desktop: true\n  webhook: {{url: '{receiver.url}', secret: '${{vault:notify.webhook}}'}}\n",
    )
    assert workspace.call("vault", "set", "notify.webhook", given=SECRET).returncode == 0
    assert workspace.call("doctor").stdout.count("notify ") == 1
    serving = workspace.serve()
    eventually(lambda: notifiers(workspace))
    eventually(lambda: _denied(serving, "new.invalid") and receiver.seen, what="the first notice")
    for _ in range(3):
        assert serving.get("http://new.invalid/<b>secret</b>?token=1").status == 403
    assert serving.get("http://other.invalid/").status == 403
    eventually(lambda: any(b"other.invalid" in body for _, body in receiver.seen))
    messages = [Webhook(SECRET).verify(body, headers) for headers, body in receiver.seen]
    told = [message["data"]["host"] for message in messages]
    assert sorted(told) == ["new.invalid", "other.invalid"]
    assert "secret" not in str(messages)
    eventually(lambda: "other.invalid" in shown.read_text())
    words = shown.read_text().split("\0")
    assert words[2:4] == ["--", "Egress denied"]
    assert shown.read_text().count("new.invalid") == 1


def _denied(serving: Serving, host: str) -> bool:
    return serving.get(f"http://{host}/").status == 403


def test_a_dead_receiver_delays_nobody_and_is_on_record(workspace: Workspace, receiver: Receiver) -> None:
    receiver.silent = True
    config(workspace, f"notify:\n  webhook: {{url: '{receiver.url}', secret: '${{vault:notify.webhook}}'}}\n")
    assert workspace.call("vault", "set", "notify.webhook", given=SECRET).returncode == 0
    serving = workspace.serve()
    eventually(lambda: notifiers(workspace))
    began = time.monotonic()
    eventually(lambda: _denied(serving, "first.invalid") and receiver.seen, what="the first attempt")
    for number in range(200):  # while that attempt hangs
        assert serving.get(f"http://h{number}.invalid/").status == 403
    attempts = len(receiver.seen)
    assert attempts <= 1 + (time.monotonic() - began) // webhook._SECONDS, "it waits for the first one still"
    # Without the secret each of the others fails at once, and that is on record.
    assert workspace.call("vault", "remove", "notify.webhook").returncode == 0
    receiver.silent = False
    receiver.release.set()
    eventually(lambda: "did not arrive" in workspace.call("log").stdout)
    entries = [json.loads(line) for line in workspace.call("log", "--json").stdout.splitlines()]
    failed = [entry for entry in entries if entry["type"] == "notify"]
    assert failed[0]["channel"] == "webhook"
    assert "holds no 'notify.webhook'" in failed[0]["reason"]
    assert receiver.url not in str(failed)
    assert workspace.call("audit", "verify").returncode == 0


def test_the_process_comes_back_and_ends_with_serve(workspace: Workspace, receiver: Receiver) -> None:
    config(workspace, "notify: {desktop: true}\n")
    workspace.environment["AWS_SECRET_ACCESS_KEY"] = "not for it"
    serving = workspace.serve()
    eventually(lambda: notifiers(workspace))
    (first,) = notifiers(workspace)
    assert b"AWS_SECRET_ACCESS_KEY" not in Path(f"/proc/{first}/environ").read_bytes()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: notifiers(workspace) not in ([], [first]))
    os.kill(serving.process.pid, signal.SIGKILL)
    serving.wait()
    eventually(lambda: notifiers(workspace) == [])


def test_nobody_is_notified_unless_somebody_asks(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    workspace.serve()
    assert notifiers(workspace) == []


def test_several_workers_have_one_between_them(workspace: Workspace) -> None:
    config(workspace, "notify: {desktop: true}\n")
    serving = workspace.serve("--workers", "2")
    eventually(lambda: notifiers(workspace))
    assert len(notifiers(workspace)) == 1
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0


def test_a_wrong_setting_is_told_before_anything_starts(workspace: Workspace) -> None:
    config(workspace, "notify:\n  webhook: {url: 'http://example.com/hook', secret: '${vault:a}'}\n")
    words = [str(PROGRAM), "serve", "--listen", "127.0.0.1:0", "--control", "off", "--metrics", "off"]
    done = subprocess.run(words, env=workspace.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "config.yaml:2: notify.webhook.url" in done.stderr
    assert "in the clear" in done.stderr
