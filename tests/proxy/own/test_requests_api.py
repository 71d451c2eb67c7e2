"""What a refused request for other rules leaves behind: one short, harmless line on record."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.proxy.enforce.asking import Asking
from cloned_proxy.proxy.own.own_page import REQUESTS_PATH
from cloned_proxy.proxy.own.own_view import OwnView
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.approvals.egress_request import MAX_BODY
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.telemetry.events import ApprovalEvent
from tests.proxy.support import Audit, Policies
from tests.store.asking import NOW, TOOL, Scene


class AtOnce:
    """`Asking.run` without its threads."""

    async def run[T](self, work: Callable[[], T]) -> T:
        return work()


async def refused(tmp_path: Path, body: bytes) -> tuple[dict[str, Any], str]:
    """What the tool is told, and what goes on record."""
    scene, record = Scene(tmp_path / "ws"), Audit()
    policies = Policies(load_policy(scene.policy_file, NOW))
    service = ApprovalService(scene.workspace)
    view = OwnView(scene.workspace.state_db, lambda: NOW)
    api = RequestsApi(service, cast(Asking, AtOnce()), policies=policies, audit=record, view=view)
    answer = await api.answer(Principal(TOOL, "r"), "POST", REQUESTS_PATH, body)
    assert answer.status == 400
    (event,) = record.events
    assert isinstance(event, ApprovalEvent)
    return json.loads(answer.body), event.why


async def test_a_body_of_nothing_but_unknown_keys_is_one_short_line(tmp_path: Path) -> None:
    keys = map("".join, itertools.product(string.ascii_letters, repeat=2))
    body = json.dumps({**dict.fromkeys(keys, 1), "domains": ["a.example.com"]}).encode()
    assert len(body) < MAX_BODY * 2
    told, why = await refused(tmp_path, body)
    for text in (told["message"], why):
        assert len(text) <= 500
        assert text.startswith("aa: unknown; known are scope")
        assert text.count(": unknown") == 5
        assert text.endswith("; and 2699 more")


@pytest.mark.parametrize("key", ["k" * 16_000, "k-" * 8_000, "k " * 8_000], ids=["a word", "with hyphens", "words"])
async def test_a_key_as_long_as_the_body_is_not_repeated(tmp_path: Path, key: str) -> None:
    told, why = await refused(tmp_path, json.dumps({key: 1}).encode())
    assert len(told["message"]) <= 500
    assert len(why) <= 500
    assert "unknown; known are scope" in why


SECRETS = [
    pytest.param({"domains": ["https://user:sk-abcdefghijklmn@b.example.com"]}, "sk-abc", id="a key in a URL"),
    pytest.param({"domains": ["https://user:hunter2@b.example.com/x"]}, "hunter2", id="a password in a URL"),
    pytest.param({"domains": ["user:hunter2@b.example.com"]}, "hunter2", id="a password before a host"),
    pytest.param({"domains": ["b.example.com:sk-abcdefghijklmn"]}, "sk-abc", id="a key for a port"),
    pytest.param({"domains": ["b.example.com/sk-abcdefghijklmn"]}, "sk-abc", id="a key in a path"),
    pytest.param({"domains": ["b.example.com"], "tool_id": "Bearer abc/def"}, "abc/def", id="a token for a tool"),
    pytest.param({"domains": ["b.example.com"], "for": "password=hunter2"}, "hunter2", id="a password for a time"),
    pytest.param({"password=hunter2": 1}, "hunter2", id="a password for a key"),
    pytest.param({"https://user:hunter2@" + "x" * 600: 1}, "hunter2", id="a password in a word that is cut"),
]


@pytest.mark.parametrize(("document", "secret"), SECRETS)
async def test_a_refusal_takes_no_secret_into_the_record(tmp_path: Path, document: object, secret: str) -> None:
    _, why = await refused(tmp_path, json.dumps(document).encode())
    assert why
    assert secret not in why


async def test_a_key_cannot_drive_a_terminal(tmp_path: Path) -> None:
    told, why = await refused(tmp_path, rb'{"x\u001b[31m\n\u202e": 1}')
    assert told["message"].isprintable()
    assert why.isprintable()
