"""The policy file of one machine that narrows: what is wrong with it is told, whenever the file came."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from cloned_proxy.fleet.signed.keys import SigningKey
from tests.fleet.conftest import RedisServer
from tests.fleet.replicas import Replica, policy_for, put_into

KEY = SigningKey.generate()
BROKEN = b"version: 1\nglobal: {allow: [a.example], dney: []}\n"


async def test_a_broken_file_that_appears_later_is_told_until_it_is_mended_or_gone(
    store: RedisServer, tmp_path: Path
) -> None:
    put_into(store, policy_for("a.example", "b.example"), 1, KEY)
    replica = Replica(tmp_path / "a", store=store.url, trust=[KEY.public], poll="1s", local="narrow")
    local = replica.workspace.policy_file
    with capture_logs() as logs:
        await replica.start()
        try:
            await replica.until_version(1)
            assert replica.policy.problems() == (), "no file is no mistake"

            def told() -> list[str]:
                return [log["problem"] for log in logs if log["event"] == "policy file not accepted"]

            assert told() == []
            local.write_bytes(BROKEN)
            await replica.until(lambda: any("dney" in problem for problem in replica.policy.problems()))
            await replica.until(lambda: any("dney" in problem for problem in told()))
            assert replica.allows("b.example"), "what is in force stays so"
            local.unlink()
            await replica.until(lambda: replica.policy.problems() == ())
            local.symlink_to(tmp_path / "nowhere")
            await replica.until(replica.policy.problems)
            local.unlink()
            local.write_bytes(policy_for("a.example"))
            await replica.until(lambda: not replica.allows("b.example"))
            assert replica.allows("a.example")
            assert replica.policy.problems() == ()
        finally:
            await replica.stop()
