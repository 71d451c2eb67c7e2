"""Canaries and secrets on their way out, from end to end: real `serve`, real vault, real TLS, curl as the tool."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.cli.canary_search import places_with
from tests.cli.program import Workspace, eventually
from tests.cli.test_injection import CANARY, Scene, scene


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_stolen_goes_nowhere_and_is_told(workspace: Workspace, tmp_path: Path, scheme: str) -> None:
    with scene(workspace, tmp_path, scheme) as s:
        made = workspace.run("vault", "canary", "bait.github")
        bait = made.stdout.strip()
        # From now on, without a restart; the header is the first thing that is sent.
        eventually(lambda: _refused(s, "/v1/a", "-H", f"X-Key: {bait}"), what="the watch")
        before = len(s.site.seen), len(s.other.seen)
        user = base64.b64encode(f"me:{bait}".encode()).decode()
        assert _refused(s, f"/v1/b?k={bait}")
        assert _refused(s, "/v1/c", "-H", f"Authorization: Basic {user}")
        assert _refused(s, "/up", "-d", f"key={bait}", url=s.other.url)
        assert _refused(s, "/x", "-H", f"X-Key: {CANARY}", url=s.other.url)  # that of a rule, at another host
        assert s.curl("/v1/d", "-H", f"X-Key: {CANARY}").stdout.endswith("reached")  # at its own
        assert (len(s.site.seen), len(s.other.seen)) == (before[0] + 1, before[1])

        eventually(lambda: "/v1/d" in workspace.run("log", "--json").stdout, what="the log")
        log = workspace.run("log", "--denied").stdout
        assert "secret_leak" in log
        assert "the vault's bait.github" in log
        assert "the vault's llm.api_key" in log
        assert 'reason="secret_leak"' in s.serving.page("/metrics").body
        said = {"log": log, "json": workspace.run("log", "--json").stdout, "metrics": s.serving.page("/metrics").body}
        look = {"directories": [tmp_path], "processes": [s.serving.process.pid], "texts": s.told | said}
        assert places_with(bait, **look) == []  # type: ignore[arg-type]

        assert workspace.run("vault", "remove", "bait.github").returncode == 0
        eventually(lambda: s.curl(f"/v1/e?k={bait}").stdout.endswith("reached"), what="the watch to end")


def _refused(s: Scene, path: str, *words: str, url: str = "") -> bool:
    said = s.curl(path, *words, url=url).stdout.lower()  # HTTP/2 knows lower case alone
    return " 403 " in said and "x-cloned-proxy-reason: secret_leak" in said


def test_no_rule_injects_a_canary(workspace: Workspace, tmp_path: Path) -> None:
    with scene(workspace, tmp_path, "http") as s:
        assert workspace.run("vault", "remove", "llm.api_key").returncode == 0
        assert workspace.run("vault", "canary", "llm.api_key").returncode == 0
        assert " 503 " in s.curl("/v1/a").stdout
        assert s.site.seen == []
        assert "'llm.api_key' is a canary" in s.serving.log()
