"""What a run costs: CPU time and memory of a process with all its descendants, from /proc (Linux only)."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the command name, which may itself hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def tree(root: int) -> list[int]:
    """`root` and its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  a Path for each process would cost more than the reading
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += parents.get(pid, ())
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, with that of children which have ended and were waited for."""
    ticks = 0
    for pid in tree(root):
        if (fields := _stat(pid)) is not None:
            ticks += sum(int(value) for value in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / _TICKS


def rss_bytes(root: int) -> int:
    """Resident memory of the tree; pages that its processes share count more than once."""
    return sum(int(fields[21]) * _PAGE for pid in tree(root) if (fields := _stat(pid)) is not None)


@dataclass(slots=True)
class Sample:
    """One workload against one contender in one round."""

    count: float
    """What was done: requests, set-ups, bytes."""
    seconds: float
    cpu: float
    """CPU-seconds of the contender's process tree."""
    latencies: list[float] = field(default_factory=list)
    """Seconds."""
    errors: int = 0

    @property
    def rate(self) -> float:
        return self.count / self.seconds if self.seconds else 0.0

    @property
    def per_cpu(self) -> float:
        """Per CPU-second; 0 where too little CPU was used for the clock to tell (it ticks at 10 ms)."""
        return self.count / self.cpu if self.cpu >= 0.05 else 0.0


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def machine_facts() -> dict[str, str]:
    """What a reader needs to place the figures; no name and no path of the machine."""
    cpu, memory = "unknown", 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = int(line.split()[1]) // 1024
    return {
        "cores": str(os.cpu_count()),
        "cpu": cpu,
        "memory": f"{memory / 1024:.1f} GiB",
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
