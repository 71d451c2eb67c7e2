"""A disk that is full while many ask: nothing passes that is not on record, nothing is lost, and it ends by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.net.load import ALWAYS
from tests.net.load_process import marked_load
from tests.net.proxy_process import ProxyOptions
from tests.net.world import World
from tests.proxy.support import need_plane

pytestmark = [pytest.mark.net, pytest.mark.timeout(180)]

_POLICY = f"version: 1\nanonymous: global\nglobal:\n  allow: [{ALWAYS}]\n"


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def arrived(world: World) -> set[str]:
    """Paths of the requests that reached the server."""
    text = world.text_at(ALWAYS, 80) + world.text_at(ALWAYS, 443)
    return set(re.findall(r"GET (/\w+-(?:plain|kept|tunnel)-\d+) HTTP", text))


@pytest.mark.parametrize("plane", ["off", "require"])
def test_nothing_passes_unrecorded_and_nothing_is_lost(fresh_world: World, plane: str) -> None:
    if plane == "require":
        need_plane()
    proxy = fresh_world.serve(_POLICY, ProxyOptions(disk="6m", plane=plane))
    filler = proxy.files / "filler"
    with marked_load(proxy, ALWAYS) as load:
        load.until("first", {200})
        fill(filler)
        load.say("full")
        load.until("full", {503})
        load.say("refused")
        load.until("refused", {503})
        assert proxy.http_get("/readyz")[0] == 503
        filler.unlink()
        load.until("refused", {200})  # nobody has done anything but make room
        load.say("again")
        load.until("again", {200})
    passed = arrived(fresh_world)
    proxy.stop()
    verified = proxy.command("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    granted = [entry for entry in proxy.log("--since", "1h") if entry.get("verdict") == "allow"]
    plain = {entry["path"] for entry in granted if entry["method"] != "CONNECT"}
    tunnels = sum(entry["method"] == "CONNECT" for entry in granted)
    # What arrived is on record; of tunnels, whose requests nobody sees, as many are.
    assert {path for path in passed if "-tunnel-" not in path} <= plain
    assert sum("-tunnel-" in path for path in passed) <= tunnels
    # Whoever was told that it passed has passed, and all others were told why not, and have not.
    told = dict(load.told)
    assert {path for path, each in told.items() if each.status == 200} <= passed
    assert {each.status for each in told.values()} == {200, 503}
    assert not {path for path, each in told.items() if each.status == 503} & passed
