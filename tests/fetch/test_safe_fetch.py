from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloned_proxy import EgressBlockedError, SafeFetch
from cloned_proxy.fetch.guide import Guide
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.vocabulary import Verdict
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.keys import load_or_create_key
from tests.cli.program import eventually
from tests.fetch.conftest import TOOL, Scene

type Get = Callable[..., httpx.Response]


def waiting(fetch: SafeFetch, url: str, **options: Any) -> httpx.Response:
    with fetch:
        return fetch.get(url, **options)


def awaited(fetch: SafeFetch, url: str, **options: Any) -> httpx.Response:
    async def get() -> httpx.Response:
        async with fetch:
            return await fetch.aget(url, **options)

    return asyncio.run(get())


BOTH = pytest.mark.parametrize("get", [waiting, awaited])


@BOTH
def test_it_goes_through_the_proxy_under_the_tools_name(s: Scene, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    s.workspace.serve()
    # What the environment says of proxies is not asked: neither a way round nor another one.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    for site in (s.plain, s.secure):
        assert get(s.fetch(), f"{site.url}/a", params={"q": "x"}).text == "reached"
        assert [path for path, _ in site.seen] == ["/a?q=x"]
    assert s.plain.secrets("/a?q=x", "via") == ["1.1 cloned-proxy"]
    log = s.workspace.run("log", "--json", "--tool", TOOL).stdout
    assert log.count('"verdict": "allow"') == 2
    assert '"run": "fetch-' in log


@BOTH
def test_a_no_of_the_policy_is_raised_and_nothing_is_sent(s: Scene, get: Get) -> None:
    # No proxy runs: the decision needs none.
    load_or_create_key(s.workspace.path / "identity.key")
    with pytest.raises(EgressBlockedError) as caught:
        get(s.fetch(), f"{s.elsewhere.url}/a")
    error = caught.value
    assert (error.reason, error.by_proxy, error.decision.verdict) == ("port_not_allowed", False, Verdict.DENY)
    assert error.decision.tool == TOOL
    assert error.hint.startswith("cloned-proxy allow localhost:")
    assert s.elsewhere.seen == []


@BOTH
@pytest.mark.parametrize("scheme", ["plain", "secure"])
def test_a_redirect_is_decided_before_it_is_followed(s: Scene, get: Get, scheme: str) -> None:
    s.workspace.serve()
    site = getattr(s, scheme)
    site.elsewhere = f"{site.url}/landed"
    answer = get(s.fetch(), f"{site.url}/v1/away")
    assert (answer.text, str(answer.url)) == ("reached", f"{site.url}/landed")
    assert get(s.fetch(), f"{site.url}/v1/away", follow_redirects=False).status_code == 302
    site.elsewhere = f"{s.elsewhere.url}/landed"
    with pytest.raises(EgressBlockedError) as caught:
        get(s.fetch(), f"{site.url}/v1/away")
    assert (caught.value.by_proxy, caught.value.decision.request.port) == (False, s.elsewhere.port)
    assert s.elsewhere.seen == []


def test_redirects_in_a_circle_end(s: Scene) -> None:
    s.workspace.serve()
    s.plain.elsewhere = f"{s.plain.url}/v1/away"
    with pytest.raises(httpx.TooManyRedirects):
        waiting(s.fetch(), f"{s.plain.url}/v1/away")
    assert len(s.plain.seen) == 21


@BOTH
@pytest.mark.parametrize("scheme", ["plain", "secure"])
def test_a_no_of_the_proxy_is_raised_too(s: Scene, get: Get, scheme: str, tmp_path: Path) -> None:
    """Another policy here than there: the proxy is the wall, and what it says is told."""
    s.workspace.serve()
    more = (f"{{host: localhost, ports: [{s.elsewhere.port}], addresses: [private]}}",)
    other = tmp_path / "other.yaml"
    other.write_text(s.policy(*more))
    url = s.elsewhere.url if scheme == "plain" else s.elsewhere.url.replace("http:", "https:")
    with pytest.raises(EgressBlockedError) as caught:
        get(s.fetch(policy=other), f"{url}/a")
    error = caught.value
    assert (error.reason, error.by_proxy, error.decision.verdict) == ("port_not_allowed", True, Verdict.DENY)
    if scheme == "plain":
        identifier = error.decision_id
        assert identifier is not None
        eventually(lambda: identifier in s.workspace.run("log", "--json").stdout, what="its record")
        assert error.hint.startswith("cloned-proxy allow localhost:")
    assert s.elsewhere.seen == []


def test_a_lease_that_is_used_up_is_the_proxys_to_know(s: Scene) -> None:
    s.workspace.write_policy(
        s.policy(f"{{host: localhost, ports: [{s.elsewhere.port}], addresses: [private], max_uses: 1}}")
    )
    s.workspace.serve()
    with s.fetch() as fetch:
        assert fetch.get(f"{s.elsewhere.url}/a").text == "reached"
        with pytest.raises(EgressBlockedError) as caught:
            fetch.get(f"{s.elsewhere.url}/b")
    assert (caught.value.reason, caught.value.by_proxy) == ("lease_used_up", True)
    assert [path for path, _ in s.elsewhere.seen] == ["/a"]


@BOTH
def test_inspected_hosts_are_trusted_through_the_workspace_ca_and_decided_by_path(s: Scene, get: Get) -> None:
    entry = f"{{host: localhost, ports: [{s.secure.port}], addresses: [private]"
    s.workspace.write_policy(s.policy().replace(f"{entry}}}", f'{entry}, paths: ["/v1/**"], methods: [GET, POST]}}'))
    s.workspace.serve()
    assert get(s.fetch(), f"{s.secure.url}/v1/a").text == "reached"
    with pytest.raises(EgressBlockedError, match="path_not_allowed") as caught:
        get(s.fetch(), f"{s.secure.url}/v2")
    assert not caught.value.by_proxy
    assert [path for path, _ in s.secure.seen] == ["/v1/a"]


@BOTH
def test_a_header_that_a_site_forges_inside_its_own_tls_blocks_nothing(s: Scene, get: Get) -> None:
    s.workspace.serve()
    for site in (s.plain, s.secure):
        assert get(s.fetch(), f"{site.url}/forged").text == "reached"


def test_an_edit_of_the_policy_acts_on_the_next_request_and_a_broken_one_does_not(s: Scene) -> None:
    s.workspace.serve()
    with s.fetch() as fetch:
        assert fetch.get(f"{s.plain.url}/a").text == "reached"
        s.workspace.write_policy("version: [")
        assert fetch.get(f"{s.plain.url}/b").text == "reached"
        s.workspace.write_policy("version: 1\n")
        with pytest.raises(EgressBlockedError) as caught:
            fetch.get(f"{s.plain.url}/c")
    assert (caught.value.reason, caught.value.by_proxy) == ("host_not_allowed", False)
    assert [path for path, _ in s.plain.seen] == ["/a", "/b"]


def test_bodies_and_verbs(s: Scene) -> None:
    s.workspace.serve()
    with s.fetch() as fetch:
        for verb in (fetch.post, fetch.put, fetch.patch, fetch.delete, fetch.head):
            # The site knows GET alone: what matters is that the request came through to it.
            assert verb(f"{s.plain.url}/a").status_code == 501


def test_without_the_decision_here_the_proxy_is_what_stands(s: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tests above, and the reason why this is called a convenience."""
    s.workspace.serve()
    real = Guide.decide

    def lenient(self: Guide, method: str, url: httpx.URL) -> Decision:
        try:
            return real(self, method, url)
        except EgressBlockedError as error:
            return error.decision

    monkeypatch.setattr(Guide, "decide", lenient)
    with pytest.raises(EgressBlockedError) as caught:
        waiting(s.fetch(), f"{s.elsewhere.url}/a")
    assert caught.value.by_proxy
    assert s.elsewhere.seen == []


def test_what_is_missing_is_named(s: Scene, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a tool id"):
        SafeFetch("a b", workspace=s.workspace.path)
    with pytest.raises(StoreError, match="cloned-proxy serve"):
        SafeFetch(TOOL, workspace=tmp_path / "none")
    load_or_create_key(s.workspace.path / "identity.key")
    with pytest.raises(StoreError, match="no policy file"):
        waiting(s.fetch(policy=tmp_path / "none.yaml"), s.plain.url)


def test_the_package_imports_httpx_only_when_it_is_asked_for() -> None:
    program = (
        "import sys, cloned_proxy; print('httpx' in sys.modules); cloned_proxy.SafeFetch; print('httpx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_credential_is_renewed_before_it_expires(s: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    s.workspace.serve()
    monkeypatch.setattr("cloned_proxy.fetch.safe_fetch._RENEW_SECONDS", -1)
    with s.fetch() as fetch:
        assert [fetch.get(f"{s.plain.url}/a").text for _ in range(2)] == ["reached"] * 2
        assert len(fetch._clients[False]) > 2
    assert fetch._clients[False] == []


def test_places_are_paths_or_texts(s: Scene, tmp_path: Path) -> None:
    """As for `DockerContainerRunner` and `request_egress`."""
    with SafeFetch(TOOL, workspace=str(s.workspace.path), policy=str(tmp_path / "gone.yaml")) as fetch:
        assert fetch is not None
