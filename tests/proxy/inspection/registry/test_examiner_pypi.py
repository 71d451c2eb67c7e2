"""A rule with `registry` for PyPI in opened TLS: projects, their files, and who dates them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.vocabulary import Anonymous
from tests.proxy.inspection.registry.conftest import Store
from tests.proxy.inspection.registry.shelf import AGES, CANARY, DAY, YOUNG, at, versions

JSON = "Accept: application/vnd.pypi.simple.v1+json\r\n"

WHEEL = "/packages/acme_pad-1.0-py3-none-any.whl"
LATE_WHEEL = "/packages/acme_pad-1.0-py2-none-any.whl"
SDIST = "/packages/acme_pad-2.0.tar.gz"


@pytest.fixture
def pypi(store: Store) -> Store:
    store.world.allow(store.rule("pypi"))
    files = {WHEEL: 100 * DAY, LATE_WHEEL: DAY, SDIST: DAY}
    store.shelf.project("acme-pad", {path.rpartition("/")[2]: age for path, age in files.items()}, store.now)
    return store


async def test_a_project_page_in_both_forms_and_under_every_spelling_of_its_name(pypi: Store) -> None:
    for path in ("/simple/acme-pad/", "/simple/Acme.Pad", "/simple/acme__PAD/"):
        for accept, kind in ((JSON, "application/vnd.pypi.simple.v1+json"), ("Accept: text/html\r\n", "text/html")):
            status, head, body = await pypi.ask(path, accept)
            assert (status, f"content-type: {kind}" in head.lower()) == (200, True)
            assert b"acme_pad-1.0-py3" in body
            assert b"acme_pad-1.0-py2" not in body
            assert b"acme_pad-2.0" not in body
    assert set(pypi.shelf.asked) == {"GET /simple/acme-pad/"}


@pytest.mark.parametrize("beside", ["", ".metadata", ".asc"])
async def test_files_of_a_project_and_what_lies_beside_them(pypi: Store, beside: str) -> None:
    assert (await pypi.ask(WHEEL + beside))[0] == (404 if beside == ".asc" else 200)
    for path in (LATE_WHEEL, SDIST):
        status, _, body = await pypi.ask(path + beside)
        assert (status, CANARY in body) == (403, False)
    assert pypi.shelf.asked.count("GET /simple/acme-pad/") <= 3


async def test_an_index_that_gives_no_dates_is_refused(pypi: Store) -> None:
    """A page in HTML alone (PEP 503) has no upload times."""
    pypi.shelf.page("/simple/acme-pad/", b'<a href="/packages/acme_pad-2.0.tar.gz">acme_pad-2.0.tar.gz</a>')
    for path in ("/simple/acme-pad/", SDIST, WHEEL):
        status, _, body = await pypi.ask(path)
        assert (status, json.loads(body)["reason"]) == (403, "too_young")


async def test_files_on_another_host_are_dated_by_the_index(store: Store) -> None:
    base = f"https://files.test:{store.world.upstream.port}"
    names = {"acme_pad-1.0.tar.gz": 100 * DAY, "acme_pad-2.0.tar.gz": DAY}
    store.shelf.project("acme-pad", names, store.now, host=base)
    store.world.allow(store.rule("pypi"), store.rule("pypi", host="files.test"))
    # As from a lock file: nobody has asked the index before.
    assert (await store.ask("/packages/acme_pad-1.0.tar.gz", "Authorization: Basic eDp5\r\n", host="files.test"))[
        0
    ] == 200
    index = next(head for head in store.shelf.heads if b"GET /simple/acme-pad/" in head and b"api.test" in head)
    assert b"authorization" not in index, "a credential goes to no other host than it was meant for"
    status, _, body = await store.ask("/packages/acme_pad-2.0.tar.gz", host="files.test")
    assert (status, CANARY in body) == (403, False)
    assert "newest that is old enough: 1.0" in json.loads(body)["hint"]
    assert base.encode() in (await store.ask("/simple/acme-pad/", JSON))[2]


async def test_no_other_registry_vouches_for_a_file_that_its_own_dates(npm: Store) -> None:
    """Another one that the caller may ask, too, lists the young file under the same name with an old date."""
    npm.world.allow(npm.rule(), npm.rule(host="files.test"))
    found = npm.shelf.packument("left-pad", AGES, npm.now)
    npm.shelf.others["/left-pad"] = json.dumps({**found, "time": dict.fromkeys(AGES, at(npm.now - 900 * DAY))}).encode()
    elsewhere = await npm.ask("/left-pad", host="files.test")
    assert len(versions(elsewhere[2])) == 5, "its own view is what it is trusted for"
    status, _, body = await npm.ask(YOUNG)
    assert (status, CANARY in body) == (403, False)


async def test_a_host_of_files_alone_is_asked_for_metadata_once(store: Store) -> None:
    base = f"https://files.test:{store.world.upstream.port}"
    store.shelf.project("acme-pad", {"acme_pad-1.0.tar.gz": 100 * DAY}, store.now, host=base)
    store.world.allow(store.rule("pypi"), store.rule("pypi", host="files.test"))
    for _ in range(3):
        assert (await store.ask("/packages/acme_pad-1.0.tar.gz", host="files.test"))[0] == 200
    assert store.shelf.asked.count("GET /simple/acme-pad/") == 2


async def test_an_index_is_asked_by_the_callers_own_rules_only(store: Store) -> None:
    base = f"https://files.test:{store.world.upstream.port}"
    store.shelf.project("acme-pad", {"acme_pad-1.0.tar.gz": 100 * DAY}, store.now, host=base)
    own = store.rule("pypi", host="files.test")
    other = Scope(allow=HostIndex([store.rule("pypi")]))
    store.world.policies.current = Policy(
        "v", anonymous=Anonymous.GLOBAL, global_scope=Scope(allow=HostIndex([own])), tools={"a@v1": other}
    )
    assert (await store.ask("/packages/acme_pad-1.0.tar.gz", host="files.test"))[0] == 403
    assert not any(b"api.test" in head for head in store.shelf.heads)


async def test_files_where_only_a_plain_rule_leads_are_not_shown(store: Store) -> None:
    """Nobody would look at their age there."""
    store.shelf.project("acme-pad", {"acme_pad-1.0.tar.gz": 100 * DAY}, store.now, host="https://files.test")
    plain = replace(store.rule("pypi", host="files.test"), registry=None, id="r-plain")
    store.world.allow(store.rule("pypi"), plain)
    status, _, body = await store.ask("/simple/acme-pad/", JSON)
    assert (status, "its files are on files.test" in json.loads(body)["hint"]) == (403, True)


async def test_the_json_of_a_project(pypi: Store) -> None:
    def entry(path: str, age: float) -> dict[str, str]:
        name = path.rpartition("/")[2]
        return {"filename": name, "url": pypi.shelf.base + path, "upload_time_iso_8601": at(pypi.now - age)}

    old, young = entry(WHEEL, 100 * DAY), entry(SDIST, DAY)
    document = {
        "info": {"name": "acme-pad", "version": "2.0"},
        "releases": {"1.0": [old], "2.0": [young]},
        "urls": [young],
    }
    pypi.shelf.page("/pypi/acme-pad/json", json.dumps(document).encode())
    pypi.shelf.page("/pypi/acme-pad/2.0/json", json.dumps({"info": document["info"], "urls": [young]}).encode())
    read = json.loads((await pypi.ask("/pypi/Acme_Pad/json"))[2])
    assert (list(read["releases"]), read["info"]["version"]) == (["1.0"], "1.0")
    status, _, body = await pypi.ask("/pypi/acme-pad/2.0/json")
    assert (status, json.loads(body)["reason"]) == (403, "too_young")
