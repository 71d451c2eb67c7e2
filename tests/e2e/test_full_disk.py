"""A disk that is full while many ask: nothing passes that is not on record, nothing is lost, and it ends by itself."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.cli.program import eventually
from tests.net.load import ALWAYS
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import ROOT, World
from tests.proxy.support import need_plane

pytestmark = [pytest.mark.net, pytest.mark.timeout(180)]

_POLICY = f"version: 1\nanonymous: global\nglobal:\n  allow: [{ALWAYS}]\n"
_WAYS = "plain", "kept", "tunnel"
_ENOUGH = 30
"""Requests of each way before the next thing happens."""


class MarkedLoad:
    """A running `tests.net.marked_load`, and what it has told."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._words: IO[bytes] = process.stdin
        self.told: dict[str, tuple[str, str, int]] = {}
        """By path: word, way and status of each request that is over."""
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            word, way, number, status = line.decode().split()
            self.told[f"/{word}-{way}-{number}"] = word, way, int(status)

    def say(self, word: str) -> None:
        """From the next request on."""
        self._words.write(f"{word}\n".encode())
        self._words.flush()

    def statuses(self, word: str) -> Counter[tuple[str, int]]:
        return Counter((way, status) for said, way, status in dict(self.told).values() if said == word)

    def until(self, word: str, status: int) -> None:
        """Until requests of that word have come to their end with this status, enough of each way."""
        eventually(
            lambda: all(self.statuses(word)[way, status] >= _ENOUGH for way in _WAYS),
            what=f"{status} for requests {word!r}: {self.statuses(word)}",
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._words.close()


@contextmanager
def marked_load(proxy: ProxyProcess, host: str) -> Iterator[MarkedLoad]:
    command = [sys.executable, "-m", "tests.net.marked_load", str(proxy.port), str(proxy.world.certificate), host]
    load = MarkedLoad(proxy.world.spawn(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    try:
        yield load
    finally:
        load.stop()


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
        load.until("first", 200)
        fill(filler)
        load.say("full")
        load.until("full", 503)
        load.say("refused")
        load.until("refused", 503)
        assert proxy.http_get("/readyz")[0] == 503
        filler.unlink()
        load.until("refused", 200)  # nobody has done anything but make room
        load.say("again")
        load.until("again", 200)
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
    assert {path for path, (_, _, status) in told.items() if status == 200} <= passed
    assert {status for _, _, status in told.values()} == {200, 503}
    assert not {path for path, (_, _, status) in told.items() if status == 503} & passed
