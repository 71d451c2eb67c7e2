"""Names while a run lasts: the policy changes, the proxy dies and comes back; and what a broken build would let out."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.cli.program import eventually
from tests.net.attacks.attempt import gets_out
from tests.net.proxy_process import ProxyOptions
from tests.net.world import World
from tests.runner.conftest import leftovers
from tests.runner.jobs import TOOL, sh
from tests.runner.transparent.conftest import POLICY, Slots, start
from tests.runner.transparent.test_clients import TLS_OTHER, python

pytestmark = [pytest.mark.docker, pytest.mark.net]

ASKING: Final = "asking.tool@v1"
LIVE: Final = """
import pathlib, socket, ssl, sys, time
box = pathlib.Path("/sandbox")
tls = ssl.create_default_context(); tls.check_hostname = False; tls.verify_mode = ssl.CERT_NONE
kept = socket.gethostbyname("other.example.com")
def once(address):
    try:
        with tls.wrap_socket(socket.create_connection((address, 443), 60), server_hostname="other.example.com") as s:
            s.sendall(b"GET /live HTTP/1.1\\r\\nHost: other.example.com\\r\\nConnection: close\\r\\n\\r\\n")
            return "passed" if b"200 OK" in s.recv(1000) else "odd"
    except (OSError, ssl.SSLError) as error:
        return type(error).__name__
held = None
while not (box / "stop").exists():
    if (box / "hold").exists() and held is None:
        held = tls.wrap_socket(socket.create_connection((kept, 443), 60), server_hostname="other.example.com")
        (box / "held").touch()
    if held and (box / "wait").exists():
        try: end = repr(held.recv(1))
        except OSError as error: end = type(error).__name__
        (box / "end").write_text(end)
        held = False
    with (box / "seen").open("a") as out:
        print(once(kept), once("other.example.com"), file=out)
    time.sleep(0.05)
"""


class Run:
    """One program that dials again and again, and the files by which it is told what to do."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        script = f"exec python3 - <<'END'\n{LIVE}\nEND"
        self._running = self._pool.submit(sh, slots.runner, script, tool=TOOL, timeout=110)

    @property
    def box(self) -> Path:
        found: list[Path] = []

        def there() -> bool:
            assert not self._running.done(), self._running.result()
            found[:] = self._slots.runner.workspace.glob("run/*/scratch/*")
            return bool(found)

        eventually(there, 60, "the run's directory")
        return found[0]

    def comes_to(self, kept: str, by_name: str) -> None:
        """Waits until the newest line is this: the outcome at the address from the beginning, and by name."""
        before = self._count()
        eventually(lambda: self._count() > before and self._lines()[-1] == f"{kept} {by_name}", 60, f"{kept} {by_name}")

    def _lines(self) -> list[str]:
        file = self.box / "seen"
        return file.read_text().split("\n")[:-1] if file.exists() else []

    def _count(self) -> int:
        return len(self._lines())

    def end(self) -> None:
        (self.box / "stop").touch()
        seen = self._running.result(60)
        self._pool.shutdown()
        assert seen.code == 0, seen


@pytest.fixture(params=["steered", "handed"])
def slots(request: pytest.FixtureRequest, world: World, images: Engine) -> Iterator[Slots]:
    with start(request.param, world) as made:
        yield made
        assert leftovers(images, made.runner.workspace) == []


def test_a_run_follows_the_policy_and_outlives_the_proxy(slots: Slots) -> None:
    run = Run(slots)
    run.comes_to("passed", "passed")
    (run.box / "hold").touch()
    eventually((run.box / "held").exists, 60, "an open connection")
    (run.box / "wait").touch()
    slots.proxy.write_policy(POLICY.replace("other.example.com", "elsewhere.example.com"))
    eventually((run.box / "end").exists, 60, "the end of the open connection")
    assert (run.box / "end").read_text() == "ConnectionResetError"
    run.comes_to("SSLError", "SSLError")
    slots.proxy.write_policy(POLICY)
    run.comes_to("passed", "passed")
    # Nobody answers for names, and nothing that was known leads anywhere.
    slots.proxy.kill()
    run.comes_to("ConnectionRefusedError", "gaierror")
    again = slots.world.serve(POLICY, ProxyOptions(workspace=slots.proxy.workspace))
    run.comes_to("ConnectionResetError", "passed")  # an address of the proxy that died stands for nothing
    run.end()
    again.stop()


def test_a_call_that_is_held_goes_on_when_a_person_says_yes(world: World, images: Engine) -> None:
    asking = f"  {ASKING}: {{inherit_global: false, on_deny: ask, hold: 60s}}\n"
    with start("steered", world) as slots:
        slots.proxy.write_policy(POLICY + asking)
        approvals = ApprovalService(Workspace(slots.proxy.files))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            command = {"it": ("curl", "-sS", "https://other.example.com/x")}
            running = pool.submit(slots.together, command, ASKING)
            eventually(lambda: approvals.list("pending") or running.done(), 60, "a request")
            (approval,) = approvals.list("pending")
            assert "other.example.com" in str(approval.proposal.addition)
            approvals.approve(approval.id, actor="cli:tester")
            assert "GET /x" in running.result(60)["it"].out


@pytest.mark.parametrize("without", [(), ("SNI",)], ids=["whole", "SNI"])
def test_another_name_in_the_hello_gets_out_of_a_build_that_does_not_look(
    world: World, images: Engine, without: tuple[str, ...]
) -> None:
    with start("steered", world, without) as slots:
        said = []

        def attack() -> bool:
            world.reset()
            said.append(slots.together({"it": python(TLS_OTHER.format(name="denied.example"))})["it"])
            world.settle()
            return bool(world.saw("marker-sni"))

        assert gets_out(attack, must=bool(without)) is bool(without), (said, slots.proxy.log())


@pytest.mark.parametrize("without", [(), ("the decision",)], ids=["whole", "the decision"])
def test_a_denied_name_is_asked_outside_by_a_build_that_does_not_decide(
    world: World, images: Engine, without: tuple[str, ...]
) -> None:
    with start("steered", world, without) as slots:
        said = []

        def attack() -> bool:
            world.reset()
            said.append(slots.together({"it": ("curl", "-sS", "https://denied.example/marker-denied")})["it"])
            world.settle()
            return bool(world.saw("marker-denied"))

        assert gets_out(attack, must=bool(without)) is bool(without), (said, slots.proxy.log())
        assert ("denied.example" in world.dns_names()) is bool(without), said
