"""How long a person waits for a command: each beside the start of a bare interpreter, in the same rounds.

python -m bench.start           prints the ratios; part of `make bench`. Needs nothing but the set-up.

The goals are times on a machine whose interpreter starts in 10 ms, so they are kept as multiples of that start: how
fast this machine is, and what else it does, falls out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cloned_proxy.share import share_path

ROUNDS: Final = 15
GOALS: Final[Mapping[str, float]] = {
    "--version": 5.0,
    "--help": 30.0,
    "list": 12.0,
    "log": 12.0,
    "explain": 12.0,
    "completion of a value": 12.0,
    "second make serve": 120.0,
}
"""At most so many starts of a bare interpreter."""
_PROGRAM: Final = Path(sys.executable).with_name("cloned-proxy")
_ROOT: Final = Path(__file__).parents[1]
_SERVE: Final = ("serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--control", "127.0.0.1:0")
_KEYS: Final = {"_CLONED_PROXY_COMPLETE": "complete_bash", "COMP_WORDS": "cloned-proxy\nremove\n", "COMP_CWORD": "2"}


def measure(rounds: int = ROUNDS) -> dict[str, float]:
    """By the names of GOALS: the least time of all rounds, as a multiple of that of a bare interpreter."""
    with tempfile.TemporaryDirectory() as directory:
        workspace = Path(directory, ".cloned")
        workspace.mkdir(mode=0o700)
        (workspace / "policy.yaml").write_bytes(share_path("config", "policy.yaml").read_bytes())
        environment = os.environ | {"CLONED_WORKSPACE": str(workspace), "XDG_CACHE_HOME": directory}

        def command(*words: str | Path, **more: str) -> Callable[[], None]:
            # `explain` ends with 1 for what is denied, and that is no failure of the measurement.
            def run() -> None:
                subprocess.run(words, env=environment | more, capture_output=True, check=False, timeout=60)

            return run

        subjects: dict[str, Callable[[], None]] = {
            "bare": command(sys.executable, "-c", "pass"),
            "--version": command(_PROGRAM, "--version"),
            "--help": command(_PROGRAM, "--help"),
            "list": command(_PROGRAM, "list"),
            "log": command(_PROGRAM, "log"),
            "explain": command(_PROGRAM, "explain", "https://example.com/"),
            "completion of a value": command(_PROGRAM, **_KEYS),
            "second make serve": lambda: _until_ready(environment),
        }
        _until_ready(environment)  # the first start makes keys and compiles modules
        times: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(rounds):
            for name, subject in subjects.items():
                began = time.perf_counter()
                subject()
                times[name].append(time.perf_counter() - began)
    bare = min(times.pop("bare"))
    return {name: round(min(found) / bare, 1) for name, found in times.items()}


def _until_ready(environment: Mapping[str, str]) -> None:
    """What `make serve` does, on free ports: the set-up that is there already, then the proxy until it says so."""
    subprocess.run(["make", "--silent", "setup"], cwd=_ROOT, check=True, timeout=60)
    words: list[str | Path] = [_PROGRAM, *_SERVE]
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as serving:
        assert serving.stdout is not None
        # Said once the listener serves under a loaded policy. It is ended at once: that takes no part of the time that
        # counts, because a kill waits for nothing.
        for line in serving.stdout:
            if line.startswith("proxy "):
                break
        serving.kill()


def main() -> int:
    for name, found in measure().items():
        sign = "met" if found <= GOALS[name] else "MISSED"
        print(f"{name:<24} {found:6.1f}x of a bare interpreter, at most {GOALS[name]:g}x: {sign}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
