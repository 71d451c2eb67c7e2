"""A rule with `registry` in opened TLS: what goes upstream, what comes back, judged by the bytes that arrive."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from OpenSSL import SSL

from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.proxy.inspection.registry import encoding
from cloned_proxy.proxy.inspection.registry import lookup as lookup_module
from cloned_proxy.proxy.inspection.registry import metadata as metadata_module
from tests.proxy.inspection.http2.peers import Client
from tests.proxy.inspection.registry.conftest import Store
from tests.proxy.inspection.registry.shelf import AGES, CANARY, DAY, OLD, YOUNG, versions
from tests.proxy.support import until


@pytest.mark.parametrize(
    "accept", ["", "Accept: application/json\r\n", "Accept: application/vnd.npm.install-v1+json; q=1.0, */*\r\n"]
)
async def test_metadata_shows_what_is_old_enough_and_is_asked_for_with_its_dates(npm: Store, accept: str) -> None:
    status, head, body = await npm.ask("/left-pad", accept)
    assert (status, versions(body), json.loads(body)["dist-tags"]) == (200, ["1.0.0", "1.1.0"], {"latest": "1.1.0"})
    assert b"accept: application/json\r\n" in npm.shelf.heads[0]
    assert "install-v1" not in npm.shelf.heads[0].decode()
    assert "content-type: application/json" in head.lower()


async def test_whatever_a_client_has_kept_it_gets_the_whole_filtered_view(npm: Store) -> None:
    for extra in (
        'If-None-Match: "unfiltered"\r\n', "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT\r\n",
        "Range: bytes=0-10\r\n", 'If-Range: "unfiltered"\r\nRange: bytes=5-\r\n', "Accept-Encoding: br, zstd\r\n",
        'If-Match: "x"\r\n',
    ):  # fmt: skip
        status, head, body = await npm.ask("/left-pad", extra)
        assert (status, versions(body)) == (200, ["1.0.0", "1.1.0"])
        sent = npm.shelf.heads[-1].decode().lower()
        assert not any(name in sent for name in ("if-", "range:", "br,", "zstd"))
        assert not any(f"\n{name}:" in head.lower() for name in ("etag", "last-modified", "content-encoding"))
        assert "cache-control: no-store" in head.lower()


@pytest.mark.parametrize("zipped", [True, False])
async def test_compressed_or_not(npm: Store, zipped: bool) -> None:
    npm.shelf.zipped = zipped
    assert versions((await npm.ask("/left-pad"))[2]) == ["1.0.0", "1.1.0"]


@pytest.mark.parametrize(
    ("accept", "coded"),
    [("gzip, deflate, br", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
async def test_a_client_that_takes_gzip_gets_it(npm: Store, accept: str, coded: bool) -> None:
    """A large document would otherwise be copied from buffer to buffer on its way."""
    _, head, body = await npm.ask("/left-pad", f"Accept-Encoding: {accept}\r\n" if accept else "")
    assert ("content-encoding: gzip" in head.lower()) is coded
    assert versions(gzip.decompress(body) if coded else body) == ["1.0.0", "1.1.0"]


async def test_a_file_is_dated_by_the_proxys_own_question(npm: Store) -> None:
    """As `npm ci` asks, which has read no metadata: everything that it needs is in the lock file."""
    status, _, body = await npm.ask(OLD, "Authorization: Bearer t\r\nCookie: c\r\n")
    assert (status, body) == (200, b"old tarball")
    assert npm.shelf.asked == ["GET /left-pad", f"GET {OLD}"]
    assert b"authorization: Bearer t\r\n" in npm.shelf.heads[0]
    assert b"cookie" not in npm.shelf.heads[0]
    await npm.ask(OLD)
    assert npm.shelf.asked[2:] == [f"GET {OLD}"], "a date that is known is not asked for again"


async def test_metadata_that_a_client_has_read_dates_the_files(npm: Store) -> None:
    await npm.ask("/left-pad")
    assert (await npm.ask(OLD))[0] == 200
    assert npm.shelf.asked == ["GET /left-pad", f"GET {OLD}"]


async def test_many_who_need_the_same_date_make_one_question(npm: Store) -> None:
    answers = await asyncio.gather(*(npm.ask(OLD) for _ in range(8)))
    assert [status for status, _, _ in answers] == [200] * 8
    assert npm.shelf.asked.count("GET /left-pad") == 1


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("2.0.0", "left-pad 2.0.0 is younger than 7d; newest that is old enough: 1.1.0"),
        ("3.0.0", "nobody knows the age of left-pad 3.0.0: its registry gives no date"),
        ("4.0.0", "left-pad 4.0.0 is younger than 7d"),
        ("9.9.9", "nobody knows the age of left-pad: no metadata of it names this file"),
    ],
)
async def test_a_file_that_is_too_young_or_has_no_date_stays_where_it_is(npm: Store, version: str, told: str) -> None:
    path = f"/left-pad/-/left-pad-{version}.tgz"
    for method in ("GET", "HEAD"):
        status, head, body = await npm.ask(path, method=method)
        assert status == 403
        assert "X-Cloned-Proxy-Reason: too_young" in head
        assert CANARY not in body
    answer = json.loads((await npm.ask(path))[2])
    assert answer["reason"] == "too_young"
    assert answer["hint"].startswith(told)
    assert f"cloned-proxy allow api.test:{npm.world.upstream.port} --registry npm" in answer["hint"]
    assert f"GET {path}" not in npm.shelf.asked
    assert next(each for each in npm.world.audit.requests[::-1] if each.reason == "too_young").hint == answer["hint"]
    await until(lambda: npm.world.in_use == 0)


async def test_the_next_request_on_the_connection_is_judged_by_itself(npm: Store) -> None:
    answer = await npm.world.talk(npm.world.get(OLD) + npm.world.get("/left-pad") + npm.world.get(YOUNG))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b"HTTP/1.1 403 too_young") == 1
    assert CANARY not in answer


SPELLINGS = [
    "/left-pad/%2d/left-pad-2.0.0.tgz", "/left-pad%2f-%2fleft-pad-2.0.0.tgz", "/%6ceft-pad/-/left-pad-2.0.0.tgz",
    "//left-pad/-/left-pad-2.0.0.tgz", "/left-pad//-/left-pad-2.0.0.tgz", "/left-pad/-//left-pad-2.0.0.tgz",
    "/left-pad/-/left-pad-2.0.0.tgz?", f"{YOUNG}?x=1", f"{OLD}?/../left-pad-2.0.0.tgz", f"{YOUNG}#", f"{YOUNG}/",
    "/x/../left-pad/-/left-pad-2.0.0.tgz", "/right-pad/%2e%2e/left-pad/-/left-pad-2.0.0.tgz", f"{YOUNG};x",
    "/left-pad/-/left-pad-2%2e0.0.tgz", "/left-pad/-/left-pad-2.0.0%2etgz", "/LEFT-PAD/-/left-pad-2.0.0.tgz",
    "/left-pad/-/LEFT-PAD-2.0.0.TGZ", "/left-pad%252f-%252fleft-pad-2.0.0.tgz", "/-/left-pad/-/left-pad-2.0.0.tgz",
    "/-/package/left-pad/-/left-pad-2.0.0.tgz", f"{YOUNG}%00", f"{YOUNG}%20",
    "/@acme/..%2fleft-pad/-/left-pad-2.0.0.tgz", "/left-pad\\-\\left-pad-2.0.0.tgz", "/./left-pad/-/left-pad-2.0.0.tgz",
]  # fmt: skip


@pytest.mark.parametrize("careless", [False, True])
async def test_no_other_spelling_of_the_path_gets_it(npm: Store, careless: bool) -> None:
    """Whatever the registry makes of the spelling: `careless` answers everything that it does not know with it."""
    npm.shelf.otherwise = CANARY if careless else b""
    for path in SPELLINGS:
        _, _, body = await npm.ask(path)
        assert CANARY not in body, path
    assert not any("2.0.0" in target.partition("?")[0] for target in npm.shelf.asked)


async def test_the_path_that_was_judged_is_what_goes_upstream(npm: Store) -> None:
    await npm.ask(
        "/%6ceft-pad%2f-/left-pad-1%2e1.0.tgz?young=2.0.0", "X-HTTP-Method-Override: GET\r\nX-Original-URL: /x\r\n"
    )
    assert npm.shelf.asked[-1] == f"GET {OLD}"
    assert b"x-original-url" not in npm.shelf.heads[-1].lower()
    assert b"override" not in npm.shelf.heads[-1].lower()


async def test_scoped_packages_in_both_spellings(npm: Store) -> None:
    for path in ("/@acme%2fpad", "/@acme/pad", "/%40acme%2Fpad"):
        assert versions((await npm.ask(path))[2]) == ["1.0.0", "1.1.0"]
    assert set(npm.shelf.asked) == {"GET /@acme%2Fpad"}
    assert (await npm.ask("/@acme%2fpad/-/pad-2.0.0.tgz"))[0] == 403
    assert (await npm.ask("/@acme%2fpad/-/pad-1.0.0.tgz"))[2] == b"old tarball"


async def test_one_version_by_number_or_tag(npm: Store) -> None:
    for wanted in ("latest", "1.1.0"):
        assert json.loads((await npm.ask(f"/left-pad/{wanted}"))[2])["version"] == "1.1.0"
    status, _, body = await npm.ask("/left-pad/2.0.0")
    assert (status, json.loads(body)["reason"]) == (403, "too_young")
    assert (await npm.ask("/left-pad/7.7.7"))[0] == 404
    assert "2.0.0" not in " ".join(npm.shelf.asked)


async def test_a_package_whose_every_version_is_young_is_refused_and_on_record(npm: Store) -> None:
    npm.shelf.packument("new-pad", {"1.0.0": DAY}, npm.now)
    status, _, body = await npm.ask("/new-pad")
    assert (status, json.loads(body)["hint"].partition(";")[0]) == (403, "all of new-pad is younger than 7d")
    assert "too_young" in npm.world.audit.reasons
    assert [end.cause for end in npm.world.audit.ends] == ["refused:too_young"]


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda found: {name: value for name, value in found.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        _without("time"),
        lambda found: {**found, "name": "right-pad"},
        lambda found: json.dumps(found).replace('"time"', '"time": {"2.0.0": "2000-01-01T00:00:00Z"}, "time"').encode(),
        lambda found: b"<html>",
        lambda found: b"",
        lambda found: json.dumps(found).encode()[:-9],
    ],
)
async def test_metadata_that_cannot_be_dated_is_refused(npm: Store, change: Callable[[dict[str, Any]], Any]) -> None:
    npm.shelf.put("left-pad", change(npm.shelf.packument("left-pad", AGES, npm.now)))
    status, _, body = await npm.ask("/left-pad")
    assert (status, json.loads(body)["reason"]) == (403, "too_young")
    assert "nobody knows the age of left-pad: " in json.loads(body)["hint"]
    assert (await npm.ask(OLD))[0] == 403


async def test_a_date_for_the_file_in_the_metadata_of_another_package_is_none(npm: Store) -> None:
    """Somebody publishes a package whose old version names the young tarball of another one."""
    found = npm.shelf.packument("evil-pad", {"1.0.0": 900 * DAY, "1.0.1": 800 * DAY}, npm.now)
    found["versions"]["1.0.0"]["dist"]["tarball"] = npm.shelf.base + YOUNG
    npm.shelf.put("evil-pad", found)
    assert versions((await npm.ask("/evil-pad"))[2]) == ["1.0.1"]
    status, _, body = await npm.ask(YOUNG)
    assert (status, CANARY in body) == (403, False)


async def test_a_tag_leads_to_nothing_young(npm: Store) -> None:
    found = npm.shelf.packument("left-pad", AGES, npm.now)
    npm.shelf.put("left-pad", {**found, "dist-tags": {"latest": "2.0.0", "1.1.0": "2.0.0", "safe": "3.0.0"}})
    assert json.loads((await npm.ask("/left-pad"))[2])["dist-tags"] == {
        "latest": "1.1.0",
        "1.1.0": "1.1.0",
        "safe": "1.1.0",
    }


@pytest.mark.parametrize("status", [201, 203, 206, 304])
async def test_an_odd_status_shows_nothing_past_the_filter(npm: Store, status: int) -> None:
    _, _, body = npm.shelf.pages["/left-pad"]
    npm.shelf.page("/left-pad", b"" if status == 304 else body, status=status)
    answered, _, body = await npm.ask("/left-pad")
    assert (answered, b"2.0.0" in body) == (403, False)


@pytest.mark.parametrize(
    ("place", "passes"),
    [
        ("/other", True),
        ("https://files.test/left-pad", False),
        ("http://api.test/left-pad", False),
        ("//files.test/x", False),
    ],
)
async def test_metadata_may_move_only_to_where_it_is_filtered(npm: Store, place: str, passes: bool) -> None:
    files = replace(npm.rule(host="files.test"), registry=None, id="r-plain")
    npm.world.allow(npm.rule(), files)
    npm.shelf.page("/left-pad", b"", status=302, location=place)
    status, head, _ = await npm.ask("/left-pad")
    assert (status, f"location: {place}" in head.lower()) == ((302, True) if passes else (403, False))


async def test_a_document_over_the_limit_is_refused_with_the_limit(npm: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_module.FilteredMetadata, "limit", 2**20)
    npm.shelf.zipped = False
    npm.shelf.page("/left-pad", b" " * (2**20 + 1) + npm.shelf.pages["/left-pad"][2])
    status, _, body = await npm.ask("/left-pad")
    assert (status, json.loads(body)["reason"]) == (403, "too_young")
    assert "MiB" in json.loads(body)["hint"]


async def test_a_small_body_that_would_become_a_huge_one_is_refused(
    npm: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (lookup_module, metadata_module):
        monkeypatch.setattr(module, "decoded", functools.partial(encoding.decoded, limit=2**20))
    bomb = gzip.compress(b"[" * (2**20 + 1), 9)
    npm.shelf.zipped = False
    npm.shelf.page("/left-pad", bomb, content_encoding="gzip")
    for path in ("/left-pad", OLD):
        status, _, body = await npm.ask(path)
        assert (status, "MiB" in json.loads(body)["hint"]) == (403, True)


async def test_a_registry_that_is_gone_dates_nothing(npm: Store) -> None:
    await npm.ask("/left-pad")
    port, npm.world.upstream.port = npm.world.upstream.port, 9
    npm.world.allow(npm.rule())
    status, _, body = await npm.ask("/other-pad/-/other-pad-1.0.0.tgz")
    assert (status, "could not be asked" in json.loads(body)["hint"]) == (403, True)
    npm.world.upstream.port = port


async def test_an_injected_secret_goes_with_the_proxys_own_question_and_never_back(npm: Store) -> None:
    npm.world.secrets.values["token"] = "sesame-5f3a91c2"
    inject = Inject("Authorization", "Bearer ${vault:token}")
    npm.world.allow(replace(npm.rule(), inject=inject))
    assert (await npm.ask(OLD))[2] == b"old tarball"
    assert all(b"authorization: Bearer sesame-5f3a91c2" in head for head in npm.shelf.heads)
    found = npm.shelf.packument("left-pad", AGES, npm.now, readme="sesame-5f3a91c2")
    npm.shelf.put("left-pad", found)
    status, _, body = await npm.ask("/left-pad")
    assert (status, b"sesame" in body) == (502, False)


async def test_the_streams_of_http_2_are_judged_one_by_one(npm: Store) -> None:
    client = await Client.connect(npm.world)
    paths = (OLD, YOUNG, "/left-pad", "/left-pad/-/left-pad-2%2e0.0.tgz", f"{OLD}?file=2.0.0")
    streams = [client.begin(client.head(path)) for path in paths]
    old, young, document, spelled, query = [await client.response(stream) for stream in streams]
    assert [each.status for each in (old, young, document, spelled, query)] == ["200", "403", "200", "403", "200"]
    assert (bytes(old.body), versions(bytes(document.body))) == (b"old tarball", ["1.0.0", "1.1.0"])
    assert CANARY not in bytes(young.body + spelled.body + query.body)
    assert set(npm.shelf.asked) == {"GET /left-pad", f"GET {OLD}"}
    await client.close()


async def test_a_large_document_is_encrypted_in_pieces(npm: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL keeps the memory of what it encrypted at once for as long as the objects of the connection live."""
    sizes: list[int] = []
    send = SSL.Connection.sendall

    def noted(session: SSL.Connection, data: Any) -> int:
        sizes.append(len(data))
        return send(session, data)

    monkeypatch.setattr(SSL.Connection, "sendall", noted)
    npm.shelf.packument("left-pad", {"1.0.0": 100 * DAY}, npm.now, readme="x" * 300_000)
    status, _, body = await npm.ask("/left-pad")
    assert (status, len(json.loads(body)["readme"])) == (200, 300_000)
    assert sum(sizes) > 300_000
    assert max(sizes) <= 66_000
