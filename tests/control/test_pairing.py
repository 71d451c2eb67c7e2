"""Pairing: one code, one device; guessing is locked; a revoked device is out at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.workspaces.devices import CODE_SECONDS, LOCK_SECONDS, Devices, PairingError, PairingLockedError
from tests.cli.program import Workspace
from tests.control.support import Control, stream


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def devices(tmp_path: Path, clock: Clock) -> Devices:
    return Devices(tmp_path / "state.db", clock=clock)


def recorded(path: Path) -> list[tuple[str, str]]:
    with AuditLog(path) as log:
        return [(entry.body["action"], entry.body["name"]) for entry in log.entries(types=("device",))]


def test_a_code_works_once_however_it_is_typed(devices: Devices) -> None:
    code = devices.new_code("phone")
    assert len(code.text.replace("-", "")) * 5 >= 40
    typed = code.text.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    paired = devices.exchange(typed)
    assert paired.device.name == "phone"
    assert devices.find(paired.token, "browser") == paired.device
    with pytest.raises(PairingError):
        devices.exchange(code.text)


def test_a_code_expires_and_does_not_come_from_the_future(devices: Devices, clock: Clock) -> None:
    code = devices.new_code()
    clock.now += CODE_SECONDS
    with pytest.raises(PairingError):
        devices.exchange(code.text)
    code = devices.new_code()
    clock.now -= 3600
    with pytest.raises(PairingError):
        devices.exchange(code.text)


def test_ten_wrong_codes_lock_pairing_void_the_codes_and_are_on_record(
    devices: Devices, clock: Clock, tmp_path: Path
) -> None:
    code = devices.new_code()
    for _ in range(9):
        with pytest.raises(PairingError, match="wrong"):
            devices.exchange("00000-00000")
    with pytest.raises(PairingLockedError):
        devices.exchange("00000-00000")
    with pytest.raises(PairingLockedError):
        devices.exchange(code.text)
    with pytest.raises(PairingLockedError):
        devices.new_code()
    assert recorded(tmp_path / "state.db") == [("locked", "")]
    clock.now += LOCK_SECONDS + 1
    with pytest.raises(PairingError, match="wrong"):
        devices.exchange(code.text)
    assert devices.exchange(devices.new_code().text).device.name == "browser"


def test_a_clock_that_goes_back_does_not_lock_for_longer(devices: Devices, clock: Clock) -> None:
    for _ in range(10):
        with pytest.raises(PairingError):
            devices.exchange("no")
    clock.now -= 86_400
    with pytest.raises(PairingLockedError) as caught:
        devices.new_code()
    assert caught.value.retry_after <= LOCK_SECONDS + 1


def test_of_concurrent_exchanges_of_one_code_exactly_one_wins(devices: Devices) -> None:
    code = devices.new_code().text

    def attempt(_: int) -> bool:
        try:
            devices.exchange(code)
        except PairingError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert len(devices.list()) == 1


def test_no_code_and_no_token_is_ever_stored(devices: Devices, tmp_path: Path) -> None:
    code = devices.new_code()
    token = devices.exchange(devices.new_code().text).token
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
    assert token.encode() not in stored
    assert code.text.encode() not in stored
    assert code.text.replace("-", "").encode() not in stored


def test_two_devices_never_share_a_name_in_the_log(devices: Devices, tmp_path: Path) -> None:
    names = [devices.issue("ci", actor="cli:x").device.name for _ in range(3)]
    assert names == ["ci", "ci 2", "ci 3"]
    assert recorded(tmp_path / "state.db") == [("paired", name) for name in names]


def test_a_browser_pairs_and_its_cookie_is_out_of_reach(control: Control, workspace: Workspace) -> None:
    reply = control.post("/pair", {"code": control.code("desk"), "name": ""})
    assert reply.status == 200
    cookie, *attributes = reply.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert cookie.startswith(f"cloned_control_{control.port}=")
    assert len(cookie.partition("=")[2]) >= 43, "256 bits"
    browser = Control(workspace, control.port, cookie=cookie)
    assert browser.api("/session")["device"]["name"] == "desk"
    assert "desk" in workspace.run("devices").stdout
    assert "device  paired  pairing: desk" in workspace.run("log").stdout


def test_a_cookie_is_no_bearer_token_and_a_token_no_cookie(browser: Control, client: Control) -> None:
    swapped = [
        Control(browser.workspace, browser.port, bearer=browser.cookie.partition("=")[2]),
        Control(browser.workspace, browser.port, cookie=f"cloned_control_{browser.port}={client.bearer}"),
    ]
    assert [each.get("/api/v1/session").status for each in swapped] == [401, 401]
    assert client.api("/session")["device"]["name"] == "test client"


def test_a_planted_second_cookie_is_not_chosen_from(browser: Control) -> None:
    planted = f"{browser.cookie}; cloned_control_{browser.port}=other"
    assert browser.get("/api/v1/session", Cookie=planted).status == 401


def test_a_revoked_device_is_out_at_once_and_its_stream_ends(control: Control, workspace: Workspace) -> None:
    lost = control.paired("lost phone")
    identifier = lost.api("/session")["device"]["id"]
    with stream(lost, timeout=90) as open_stream:
        assert workspace.run("devices", "revoke", identifier).returncode == 0
        assert lost.get("/api/v1/session").status == 401
        assert [data["action"] for kind, data, _ in open_stream.events() if kind != "device"] == []
    assert workspace.run("devices", "revoke", identifier).returncode == 1


def test_a_device_can_be_revoked_by_another(browser: Control, control: Control) -> None:
    other = control.paired("other")
    identifier = other.api("/session")["device"]["id"]
    assert browser.delete(f"/devices/{identifier}").status == 200
    assert other.get("/api/v1/session").status == 401
    assert browser.delete(f"/devices/{identifier}").status == 404


def test_guessing_is_refused_with_retry_after_and_logged(workspace: Workspace, control: Control) -> None:
    statuses = [control.post("/pair", {"code": f"guess-{number}"}).status for number in range(11)]
    assert statuses == [403] * 9 + [429] * 2
    reply = control.post("/pair", {"code": "guess"})
    assert 0 < int(reply.headers["retry-after"]) <= LOCK_SECONDS + 1
    assert "pairing is locked" in workspace.running[0].log()
    assert workspace.run("pair").returncode == 1
