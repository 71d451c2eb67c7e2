"""What Grafana needs: a token that reads and does nothing else, and links that a person may follow into the UI."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.cli.program import Workspace
from tests.control.support import Control

LINK = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.fixture(scope="module")
def reader(workspace: Workspace, control: Control) -> Control:
    token = workspace.json("pair", "--api", "--read-only", "--name", "grafana")["token"]
    return replace(control, bearer=token)


def test_a_reading_token_reads(reader: Control) -> None:
    assert reader.send("GET", "/api/v1/decisions?verdict=deny&limit=500").status == 200


def test_a_reading_token_changes_nothing(reader: Control, client: Control) -> None:
    (own,) = [each for each in client.send("GET", "/api/v1/devices").json["items"] if each["name"] == "grafana"]
    for path in (f"/api/v1/devices/{own['id']}", "/api/v1/devices/0123456789abcdef"):
        refused = reader.send("DELETE", path)
        assert (refused.status, refused.json["error"]) == (403, "read_only"), refused.text
        assert "only read" in refused.json["message"]
    assert reader.send("POST", "/api/v1/approvals/x/approve", b"{}").status == 403
    assert reader.send("GET", "/api/v1/session").status == 200


def test_a_reading_token_is_no_cookie(reader: Control, control: Control) -> None:
    cookie = f"cloned_control_{control.port}={reader.bearer}"
    assert replace(control, cookie=cookie).send("GET", "/api/v1/session").status == 401


def test_only_an_api_client_can_be_a_reader(workspace: Workspace) -> None:
    done = workspace.run("pair", "--read-only")
    assert (done.returncode, "--api" in done.stderr) == (2, True)


def test_a_link_from_another_port_opens_the_ui(browser: Control, control: Control) -> None:
    assert browser.send("GET", "/", headers=LINK).status == 200
    assert control.send("GET", "/", headers=LINK).status == 303
    assert control.send("GET", "/pair", headers=LINK).status == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/api/v1/session", LINK),  # data, not a page
        ("/", LINK | {"Sec-Fetch-Dest": "iframe"}),
        ("/", LINK | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}),
        ("/", {"Sec-Fetch-Site": "same-site"}),
        ("/", LINK | {"Origin": "http://127.0.0.1:3000"}),
        ("/", LINK | {"Host": "attacker.example:8082"}),
    ],
)
def test_nothing_else_from_there_is_answered(browser: Control, path: str, headers: dict[str, str]) -> None:
    assert browser.send("GET", path, headers=headers).status in {403, 421}


def test_a_link_cannot_post(browser: Control) -> None:
    assert browser.send("POST", "/", b"{}", headers=LINK).status == 403
