"""Entries of the store whose time no clock shows: they are told like any other, and hide none."""

from __future__ import annotations

import json
from typing import Final

import pytest

from cloned_proxy.cli.commands.log.fleet_log import _Printer
from cloned_proxy.fleet.audit.audit_read import FleetLog
from tests.fleet.audit.shipping import NAMES, Replica
from tests.fleet.conftest import RedisServer

ODD: Final = ["1e400", "-1e400", "1e300", "-1e12", "1" + "0" * 400, "[" * 50_000, "true", '"now"']
MORE_THAN_A_PAGE: Final = 9


@pytest.mark.parametrize("since", [None, 1.0])
@pytest.mark.parametrize("as_json", [False, True])
async def test_an_entry_with_a_time_that_is_none_hides_no_other(
    store: RedisServer, replica: Replica, capsys: pytest.CaptureFixture[str], since: float | None, *, as_json: bool
) -> None:
    replica.record(1000)
    await replica.until_shipped()
    with store.client() as client:
        ((_, said),) = client.hgetall(NAMES.audit_logs).items()
        for number, at in enumerate(ODD):
            name = f"{number:016x}"
            client.hset(NAMES.audit_logs, name, said)
            body = f'{{"type":"policy","at":{at},"action":"edit","actor":"a","summary":"s","why":"","version":"v"}}'
            for seq in range(1, 1 + MORE_THAN_A_PAGE):
                client.xadd(NAMES.audit(name), {"hash": "0" * 64, "body": body}, id=f"{seq}-0")
    log = FleetLog(replica.link, NAMES)
    printer = _Printer(denied=False, tool=None, newest=0, as_json=as_json)
    printer.print(log, await log.read(since))
    told = capsys.readouterr().out.splitlines()
    assert sum("host1000.example" in line for line in told) == 1
    if as_json:
        assert all(json.loads(line)["replica"] == "r1" for line in told)
