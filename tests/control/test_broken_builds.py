"""Each guard of the control address taken out: the attack that it stands against must succeed then, and fail with it.

A test that passes against a build without the guard proves nothing. The broken builds are the real control process,
started with one name replaced.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloned_proxy.store.workspaces.devices import Devices
from tests.cli.program import Workspace, eventually, policy_text
from tests.control.support import Control, stream
from tests.net.attacks.attempt import gets_out

EVIL = "http://attacker.example"
RULE = json.dumps({"host": "attacker.example"}).encode()
NOTHING = "pass"


@dataclass
class Target:
    """A control process on a workspace of its own, and a browser that is paired with it."""

    control: Control
    browser: Control
    devices: Devices
    silence: float = 60.0
    """Seconds after which what says nothing is taken to go on: few where it must, as many as it takes where not."""

    @property
    def fooled(self) -> bool:
        """Whether the rule that the attacks send is in the policy."""
        return b"attacker.example" in self.control.workspace.policy.read_bytes()


@contextmanager
def control_process(directory: Path, broken: str) -> Iterator[Target]:
    """`broken` is run before the control process is."""
    workspace = Workspace(directory / "ws", {"PATH": os.environ["PATH"], "CLONED_WORKSPACE": str(directory / "ws")})
    workspace.write_policy(policy_text())
    devices = Devices(workspace.path / "state.db")
    program = f"{broken}\nfrom cloned_proxy.control.__main__ import main\nmain()"
    lifeline, alive = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listening, (directory / "log").open("wb") as log:
        words = ["--fd", str(listening.fileno()), "--lifeline", str(lifeline), "--proxy", "127.0.0.1:8081"]
        process = subprocess.Popen(
            [sys.executable, "-c", program, *words, "--workspace", str(workspace.path)],
            pass_fds=(listening.fileno(), lifeline),
            stderr=log,
        )
        control = Control(workspace, listening.getsockname()[1])
    try:
        eventually(lambda: answers(control), what="the control process")
        paired = devices.exchange(devices.new_code("victim").text)
        browser = Control(workspace, control.port, cookie=f"cloned_control_{control.port}={paired.token}")
        yield Target(control, browser, devices)
    finally:
        os.close(alive)
        os.close(lifeline)
        assert process.wait(60) == 0, (directory / "log").read_text()


def answers(control: Control) -> bool:
    try:
        return control.get("/pair").status == 200
    except OSError:
        return False


def rebinding(target: Target) -> bool:
    """A page of attacker.example, whose name now leads here, reads what is on record."""
    name = f"attacker.example:{target.control.port}"
    return target.browser.get("/api/v1/rules", Host=name, Origin=f"http://{name}").status == 200


def cross_origin(target: Target) -> bool:
    """A script of another page, in a browser that sends the cookie and does not say where the request comes from."""
    target.browser.send("POST", "/api/v1/rules", RULE, {"Origin": EVIL})
    return target.fooled


def form(target: Target) -> bool:
    """A form of text/plain, which needs no leave; its browser sends no Origin."""
    headers = {"Content-Type": "text/plain", "Origin": None, "X-Cloned-Request": None}
    target.browser.send("POST", "/api/v1/rules", RULE, headers)
    return target.fooled


def stranger(target: Target) -> bool:
    """Nobody knows this client."""
    return target.control.get("/api/v1/rules").status == 200


def replayed(target: Target) -> bool:
    """A code that was looked at over a shoulder, after it was used."""
    code = target.devices.new_code().text
    return [target.control.post("/pair", {"code": code}).status for _ in range(2)] == [200, 200]


def guessing(target: Target) -> bool:
    """More guesses than ten; a lock would void the code."""
    code = target.devices.new_code().text
    for number in range(12):
        target.control.post("/pair", {"code": f"guess-{number}"})
    return target.control.post("/pair", {"code": code}).status == 200


def expired(target: Target) -> bool:
    """A code of an hour ago."""
    old = Devices(target.control.workspace.path / "state.db", clock=lambda: time.time() - 3600)
    return target.control.post("/pair", {"code": old.new_code().text}).status == 200


def revoked(target: Target) -> bool:
    """A stolen cookie whose device was revoked, on a stream that is open already."""
    device = target.browser.api("/session")["device"]["id"]
    with stream(target.browser, timeout=target.silence) as opened:
        target.devices.revoke(device, actor="test")
        try:
            return bool(list(opened.events())) and False
        except TimeoutError:
            return True  # it goes on


def flooding(target: Target) -> bool:
    """A body of a hundred times what any operation takes."""
    body = json.dumps({"code": "x", "name": "", "padding": "x" * 6_000_000}).encode()
    try:
        return target.control.send("POST", "/api/v1/pair", body).status != 413
    except ConnectionError:
        return False  # it was answered, and closed, before all of it was sent


def traversal(target: Target) -> bool:
    """A path out of the static files."""
    reply = target.browser.get("/static/../app.py")
    return reply.status == 200 and "import" in reply.text


_GUARD = "from cloned_proxy.control import guard; "
_SESSIONS = "from cloned_proxy.control import sessions, app; "
_DEVICES = "from cloned_proxy.store.workspaces import devices; "
_FILES = (
    "from cloned_proxy.control import pages; from pathlib import Path\n"
    "class Files(dict):\n"
    "    def get(self, name): return pages.Page((pages.STATIC / name).read_bytes(), 'text/plain')\n"
    "load = pages.Pages.load\n"
    "pages.Pages.load = classmethod(lambda cls: pages.Pages(Files(load().files), load().public))"
)

_NO_PROOF = f"{_SESSIONS} sessions.check_proof = app.check_proof = lambda headers: None"
_ANY_KIND = """
class AnyKind(str):
    def partition(self, _): return ('application/json', '', '')
from starlette.datastructures import Headers
get = Headers.get
Headers.get = lambda self, key, default=None: AnyKind() if key == 'content-type' else get(self, key, default)
"""
_KEEPS_CODES = f"""
{_DEVICES}
take = devices._take_code
class Keeping:
    def __init__(self, database): self.database = database
    def execute(self, query, *values):
        return None if query.startswith('DELETE') else self.database.execute(query, *values)
devices._take_code = lambda database, code, now: take(Keeping(database), code, now)
"""
_OLD_CODES = f"""
{_DEVICES}
take = devices._take_code
devices._take_code = lambda database, code, now: take(database, code, now - 3600)
"""

CASES: Sequence[tuple[str, Callable[[Target], bool]]] = (
    (f"{_GUARD} guard.check_source = lambda *args, **options: None", rebinding),
    (f"{_GUARD} guard.check_source = lambda *args, **options: None", cross_origin),
    (f"{_NO_PROOF}{_ANY_KIND}", form),
    (f"{_SESSIONS} app.device_of = lambda headers, services, changes: None", stranger),
    (_KEEPS_CODES, replayed),
    (f"{_DEVICES} devices.MAX_FAILURES = 1000", guessing),
    (_OLD_CODES, expired),
    (f"{_DEVICES} devices.Devices.valid = lambda self, device: True", revoked),
    ("from cloned_proxy.control import operation; operation.MAX_BODY = 10_000_000", flooding),
    (_FILES, traversal),
)


@pytest.mark.parametrize(("removed", "attack"), CASES, ids=[attack.__name__ for _, attack in CASES])
def test_without_its_guard_the_attack_succeeds(tmp_path: Path, removed: str, attack: Callable[[Target], bool]) -> None:
    with control_process(tmp_path, removed) as target:
        target.silence = 3.0
        assert gets_out(lambda: attack(target))


def test_with_every_guard_each_attack_fails(tmp_path: Path) -> None:
    with control_process(tmp_path, NOTHING) as target:
        attacks = [attack for _, attack in CASES if attack not in (guessing, revoked)]
        # What locks pairing and what ends the session come last.
        assert [attack.__name__ for attack in (*attacks, guessing, revoked) if attack(target)] == []
