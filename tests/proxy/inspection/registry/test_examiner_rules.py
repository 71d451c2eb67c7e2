"""How a rule with `registry` meets leases, methods, modes and limits."""

from __future__ import annotations

from dataclasses import replace

from cloned_proxy.policy.terms.vocabulary import Mode
from tests.proxy.inspection.registry.conftest import Store
from tests.proxy.inspection.registry.shelf import CANARY, DAY, YOUNG, versions


async def test_an_exempt_package_passes_as_it_is(npm: Store) -> None:
    npm.world.allow(npm.rule("npm", "@acme/*"))
    assert len(versions((await npm.ask("/@acme%2fpad"))[2])) == 5
    assert (await npm.ask("/@acme/pad/-/pad-2.0.0.tgz"))[2] == CANARY
    assert (await npm.ask(YOUNG))[0] == 403
    assert (await npm.ask("/@acme/..%2fleft-pad/-/left-pad-2.0.0.tgz"))[0] == 403


async def test_a_lease_exempts_for_a_while_and_its_end_is_noticed(npm: Store) -> None:
    lease = replace(npm.rule("npm", "left-pad"), expires=npm.now + 1_000_000.0)
    npm.world.enforcer._clock = lambda: npm.now
    npm.world.allow(npm.rule(), lease)
    assert (await npm.ask(YOUNG))[2] == CANARY
    assert len(versions((await npm.ask("/left-pad"))[2])) == 5
    npm.world.clock.now += 1_000_001.0
    npm.shelf.packument("left-pad", {"1.0.0": 100 * DAY, "2.0.0": DAY}, npm.now)
    assert (await npm.ask(YOUNG))[0] == 403


async def test_what_was_too_young_is_old_enough_later(npm: Store) -> None:
    assert (await npm.ask(YOUNG))[0] == 403
    npm.world.clock.now += 6 * DAY
    assert (await npm.ask(YOUNG))[2] == CANARY
    assert npm.shelf.asked == ["GET /left-pad", f"GET {YOUNG}"]


async def test_publishing_and_auditing_pass_or_are_refused_by_methods_alone(npm: Store) -> None:
    body = "Content-Type: application/json\r\nContent-Length: 2\r\n"
    npm.shelf.page("/left-pad", b'{"ok":true}')
    npm.shelf.page("/-/npm/v1/security/advisories/bulk", b"{}")
    for method, path in (("PUT", "/left-pad"), ("POST", "/-/npm/v1/security/advisories/bulk"), ("GET", "/-/ping")):
        extra = body if method != "GET" else ""
        answer = await npm.world.talk(
            npm.world.get(path, f"{extra}Connection: close\r\n", method=method) + b"{}"[: 2 * bool(extra)]
        )
        assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 "))
    npm.world.allow(replace(npm.rule(), methods=frozenset({"GET"})))
    answer = await npm.world.talk(npm.world.get("/left-pad", body, method="PUT") + b"{}")
    assert b"method_not_allowed" in answer


async def test_a_method_that_no_client_uses_for_files_gets_none(npm: Store) -> None:
    for method in ("POST", "PROPFIND", "get"):
        status, _, body = await npm.ask(YOUNG, "Content-Length: 0\r\n" if method == "POST" else "", method=method)
        assert (status, CANARY in body) == (403, False)


async def test_a_packument_that_is_to_be_sent_back_is_whole_only_where_that_is_allowed(npm: Store) -> None:
    npm.shelf.page("/left-pad?write=true", npm.shelf.pages["/left-pad"][2])
    assert len(versions((await npm.ask("/left-pad?write=true&attachments=true"))[2])) == 5
    npm.world.allow(replace(npm.rule(), methods=frozenset({"GET"})))
    assert versions((await npm.ask("/left-pad?write=true"))[2]) == ["1.0.0", "1.1.0"]


async def test_report_mode_shows_all_and_records_the_files(npm: Store) -> None:
    current = npm.world.policies.current
    assert current is not None
    npm.world.policies.current = replace(current, mode=Mode.REPORT)
    assert len(versions((await npm.ask("/left-pad"))[2])) == 5
    assert (await npm.ask(YOUNG))[2] == CANARY
    assert npm.world.audit.reasons.count("too_young") == 1
