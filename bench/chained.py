"""CONNECT set-ups through us and a Squid in front of us, beside that Squid alone: per CPU-second of the first proxy.

python -m bench.chained      needs Squid and root: a network namespace, in which the upstream has an address of its own

This machine's own addresses are never chained, so the upstream's is one that looks like another machine's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop

from bench.contenders import Contender, Ours, Squid
from bench.measure import Sample
from bench.upstream_process import UpstreamProcess
from bench.wire import HOST
from bench.workloads import Workload, set_up
from cloned_proxy.proxy.plane import library

_ADDRESS: Final = "10.77.0.1"
_INSIDE: Final = "--inside"
_ROUNDS: Final = 5
_SECONDS: Final = 2.0
_RULES: Final = 10
_SET_UP: Final = Workload("setup", "CONNECT, ClientHello, first bytes", "set-ups/s", set_up)


class Front(Squid):
    """Takes names and addresses: what it lets through is ours to say."""

    def command(self) -> list[str]:
        command = super().command()
        configuration = self.directory / "squid.conf"
        text = configuration.read_text().replace("http_access allow allowed", "http_access allow all")
        configuration.write_text(text)
        return command


class Chained(Ours):
    name = "cloned-proxy and Squid"
    front: Contender
    plane = "off"
    title = "python"

    def command(self) -> list[str]:
        command = super().command()
        config = self.policy.with_name("config.yaml")
        config.write_text(f"upstream: {{proxy: 'http://127.0.0.1:{self.front.port}'}}\n")
        config.chmod(0o600)
        return [*command, "--plane", self.plane]


class ChainedNatively(Chained):
    name = "cloned-proxy, native plane, and Squid"
    plane = "require"
    title = "native"


async def _measure(directory: Path) -> dict[str, float]:
    alone: list[Sample] = []
    chained: dict[str, list[Sample]] = {kind.plane: [] for kind in _kinds()}
    with UpstreamProcess(directory, _ADDRESS) as ports:
        for number in range(_ROUNDS):
            front = Front(directory / f"squid{number}", ports, 10)
            front.start()
            try:
                alone.append(await _SET_UP.run(front, _SECONDS))
                for kind in _kinds():
                    ours = kind(directory / f"ours{number}{kind.plane}", ports, 10)
                    ours.front = front
                    ours.start()
                    try:
                        chained[kind.plane].append(await _SET_UP.run(ours, _SECONDS))
                    finally:
                        ours.stop()
            finally:
                front.stop()
    found = {"load_average": round(os.getloadavg()[0], 1), **_figures("squid", alone)}
    for kind in _kinds():
        found |= _figures(kind.title, chained[kind.plane], alone)
    # The ratio is that of what `serve` does where the plane is built, which is the last kind.
    return {"chained_ratio": found[f"{_kinds()[-1].title}_ratio"], **found}


def _kinds() -> list[type[Chained]]:
    return [Chained] + ([ChainedNatively] if library.find() is not None else [])


def _figures(title: str, samples: list[Sample], alone: list[Sample] | None = None) -> dict[str, float]:
    """Medians over the rounds; with `alone` also what they are of that, and the least and most of a round."""
    figures = {
        f"{title}_setups_per_cpu": _median(samples, per_cpu=True),
        f"{title}_setups_per_second": _median(samples, per_cpu=False),
        f"{title}_errors": float(sum(sample.errors for sample in samples)),
    }
    if alone is not None:
        ratios = [each.per_cpu / other.per_cpu for each, other in zip(samples, alone, strict=True)]
        figures[f"{title}_ratio"] = round(_median(samples, per_cpu=True) / _median(alone, per_cpu=True), 2)
        figures[f"{title}_ratio_least"], figures[f"{title}_ratio_most"] = round(min(ratios), 2), round(max(ratios), 2)
        figures[f"{title}_wall_clock_ratio"] = round(_median(samples, per_cpu=False) / _median(alone, per_cpu=False), 2)
    return figures


def _median(samples: list[Sample], *, per_cpu: bool) -> float:
    return round(statistics.median(each.per_cpu if per_cpu else each.rate for each in samples))


def main() -> int:
    if _INSIDE not in sys.argv:
        script = f'ip link set lo up && ip addr add {_ADDRESS}/32 dev lo && exec "$@"'
        command = ["unshare", "-n", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "bench.chained", _INSIDE]
        environment = {**os.environ, "BENCH_HOST": "bench.example"}
        return subprocess.run(command, env=environment, check=False).returncode
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        hosts = Path(name) / "hosts"
        hosts.write_text(f"{_ADDRESS} {HOST}\n")
        subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
        os.chmod(name, 0o755)  # noqa: PTH101  Squid, started as root, becomes another user
        print(json.dumps(uvloop.run(_measure(Path(name)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
