"""What the live stream costs: the CPU time of the proxy at a fixed rate of decisions, with and without listeners.

`python -m bench.control [SECONDS]`. Prints, for each round, the share of one processor that the proxy and the control
process took. Rounds alternate, because a machine that does other work drifts.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

RATE = 1000
LISTENERS = 3
ROUNDS = 3
PROGRAM = str(Path(sys.executable).with_name("cloned-proxy"))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def load(port: int, seconds: float) -> int:
    """Refused requests at the rate, over one kept-alive connection; how many there were."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began, sent = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * RATE:
            connection.request("GET", f"http://host-{sent % 50}.example/")
            connection.getresponse().read()
            sent += 1
        time.sleep(0.002)
    connection.close()
    return sent


def listen(port: int, token: str, stop: threading.Event, heard: list[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/api/v1/stream", headers={"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    while not stop.is_set() and (data := response.read1(1 << 16)):
        heard[0] += data.count(b"event: decision")
    connection.close()


def measure(
    port: int, control: int, token: str, *, pid: int, seconds: float, listeners: int
) -> tuple[float, float, int]:
    """The proxy's and the control process's share of a processor, and the events that were heard."""
    stop, heard = threading.Event(), [0]
    threads = [threading.Thread(target=listen, args=(control, token, stop, heard)) for _ in range(listeners)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    other = child_of(pid)
    before = cpu_seconds(pid), cpu_seconds(other)
    sent = load(port, seconds)
    after = cpu_seconds(pid), cpu_seconds(other)
    time.sleep(1)
    stop.set()
    load(port, 0.1)  # wakes who still reads
    for thread in threads:
        thread.join(10)
    scale = RATE / sent
    return (after[0] - before[0]) * scale, (after[1] - before[1]) * scale, heard[0]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with ExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="cloned-bench-")))
        environment = {**os.environ, "CLONED_WORKSPACE": str(directory / "ws")}
        words = [PROGRAM, "serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--metrics", "off"]
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        parts.callback(process.wait)
        parts.callback(process.terminate)
        lines = [(process.stdout or sys.stdin).readline() for _ in range(2)]
        port, control = (int(line.rstrip().rpartition(":")[2]) for line in lines)
        told = subprocess.run([PROGRAM, "pair", "--api"], env=environment, capture_output=True, text=True, check=True)
        quiet: list[float] = []
        busy: list[float] = []
        for _ in range(ROUNDS):
            for listeners, results in ((0, quiet), (LISTENERS, busy)):
                proxy, beside, heard = measure(
                    port, control, told.stdout.strip(), pid=process.pid, seconds=seconds, listeners=listeners
                )
                results.append(proxy)
                print(f"{listeners} listeners: proxy {proxy:.3f}, control {beside:.3f} CPU-s for {RATE}; heard {heard}")
        added = median(busy) / median(quiet) - 1
        print(f"the stream adds {added:+.1%} to the proxy's CPU time (medians of {ROUNDS})")


if __name__ == "__main__":
    main()
