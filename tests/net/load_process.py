"""`tests.net.marked_load` as tests run it: what its clients say, and what they were told."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final, NamedTuple

from tests.cli.program import eventually
from tests.net.proxy_process import ProxyProcess
from tests.net.world import ROOT

WAYS: Final = ("plain", "kept", "tunnel")


class Told(NamedTuple):
    """Of one request that is over."""

    word: str
    way: str
    status: int
    host: str


class MarkedLoad:
    """Running clients of these ways, and what they have told."""

    def __init__(self, process: subprocess.Popen[bytes], ways: Sequence[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._ways = ways
        self._words: IO[bytes] = process.stdin
        self.told: dict[str, Told] = {}
        """By path."""
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            word, way, number, status, host = line.decode().split()
            self.told[f"/{word}-{way}-{number}"] = Told(word, way, int(status), host)

    def say(self, word: str) -> None:
        """From the next request on."""
        self._words.write(f"{word}\n".encode())
        self._words.flush()

    def counts(self, word: str, host: str = "") -> Counter[tuple[str, int]]:
        """How many requests of that word, to that host or to any, came to which end: by way and status."""
        told = list(self.told.values())
        return Counter((each.way, each.status) for each in told if each.word == word and host in ("", each.host))

    def until(
        self,
        word: str,
        statuses: Collection[int],
        *,
        host: str = "",
        ways: Sequence[str] | None = None,
        enough: int = 30,
    ) -> None:
        """Until requests of that word have come to one of these ends, enough of each way."""

        def done() -> bool:
            counts = self.counts(word, host)
            return all(sum(counts[way, status] for status in statuses) >= enough for way in ways or self._ways)

        try:
            eventually(done, what=f"{statuses} for requests {word!r} to {host or 'anybody'}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {dict(self.counts(word, host))}") from error

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._words.close()


@contextmanager
def marked_load(
    proxy: ProxyProcess, *targets: str, clients: int = 4, ways: Sequence[str] = WAYS, pause: float = 0.02
) -> Iterator[MarkedLoad]:
    """Targets are as `tests.net.marked_load` takes them; `pause` is in seconds: others work on this machine, too."""
    command = [sys.executable, "-m", "tests.net.marked_load", str(proxy.port), str(proxy.world.certificate)]
    command += [str(clients), str(pause), ",".join(ways), *targets]
    load = MarkedLoad(proxy.world.spawn(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE), ways)
    try:
        yield load
    finally:
        load.stop()
