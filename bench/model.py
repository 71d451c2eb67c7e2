"""What the seal costs a local model: asked through proxy, policy and relay, beside asked inside its own namespace.

python -m bench.model            needs root, an engine, the images and the model of the tests; part of `make bench`

Goals: tokens a second at least 0.98 of those inside, the first token at most 2 ms later, `llm up` of a model that is in
the page cache within 1.2 of the bare container's start, and a model of 253 MB within a limit of 512 MiB.

How much later the first token comes is taken from the head of the stream, which the server sends before it computes
anything: the way in and the way out are the token's own, and the computing, which varies by many times the goal on a
machine that has other work, is in neither figure. Both sides are asked in
turns, and the quickest answer of each counts.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.alone import print_to_stderr
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.llm.relay import InsideSockets
from cloned_proxy.runner.llm.state import CONTAINER
from cloned_proxy.runner.slots.link import proxy_status
from cloned_proxy.runner.slots.standby import proxy_for
from cloned_proxy.runner.values.errors import SandboxError
from tests.runner.kept_images import bring_sandbox_images
from tests.runner.real_model import FILE, IMAGE, build_image, fetch

ROUNDS = 9
TOKENS = 48
FIRSTS = 120
PROMPT = "Once upon a time"
STARTS = 5
LIMIT_MIB = 512
PROGRAM = [sys.executable, "-m", "cloned_proxy"]
READY = """
import time, urllib.request
while True:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8080/health", timeout=2): break
    except OSError:
        time.sleep(0.02)
"""


type Asked = tuple[http.client.HTTPConnection, str]
"""A connection, and what stands before each path: "" or the origin, as a proxy wants it."""


def main() -> int:
    """Prints one JSON object."""
    # Whoever ends this early gets the model taken down, too: a signal alone would pass by every `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        engine = Engine.connect()
        bring_sandbox_images(engine, print_to_stderr)
        place = fetch()
        build_image(engine, place)
    except (SandboxError, RuntimeError) as error:
        sys.stderr.write(f"the model is not measured: {error}\n")
        return 0
    if os.geteuid() != 0:
        sys.stderr.write("the model is not measured: entering its namespace takes root\n")
        return 0
    sys.stdout.write(json.dumps(measure(engine, place / "models"), indent=2) + "\n")
    return 0


def measure(engine: Engine, models: Path) -> dict[str, float | bool]:
    """Every figure, and whether the goals are met."""
    with tempfile.TemporaryDirectory() as directory:
        workspace = Path(directory) / ".cloned"
        workspace.mkdir(mode=0o700)
        (workspace / "policy.yaml").write_text(
            "version: 1\nanonymous: global\nglobal: {allow: [{host: 127.0.0.1, ports: [8080]}]}\n"
        )
        settings = {"engine": "llama.cpp", "image": IMAGE, "memory": f"{LIMIT_MIB}m", "cpus": 1.0}
        (workspace / "config.yaml").write_text(json.dumps({"llm": settings}))
        up = [*PROGRAM, "llm", "up", "--workspace", str(workspace), "--models", str(models)]
        down = [*PROGRAM, "llm", "down", "--workspace", str(workspace)]
        starts = []
        for _ in range(STARTS):
            ours = timed(lambda: quiet(up))
            quiet(down)
            starts.append((ours, bare_start(engine, models)))
        quiet(up)
        try:
            with proxy_for(workspace, lambda _: None):
                pid = engine.state(CONTAINER).pid
                _, _, port = proxy_status(workspace, "bench").address.rpartition(":")
                asked = (inside(pid), through(int(port)))
                firsts = [(first(asked[0]), first(asked[1])) for _ in range(FIRSTS)]
                pairs = [(rate(asked[0]), rate(asked[1])) for _ in range(ROUNDS)]
            peak = peak_mib(pid)
            killed = engine.state(CONTAINER).oom_killed
        finally:
            quiet(down)
    # The best of each side, in turns: what else runs on the machine only ever makes an answer later.
    theirs_rate, ours_rate = (max(rates) for rates in zip(*pairs, strict=True))
    theirs_head, ours_head = (min(head for head, _ in side) for side in zip(*firsts, strict=True))
    ratio, later = ours_rate / theirs_rate, (ours_head - theirs_head) * 1000
    up_seconds, bare_seconds = (min(times) for times in zip(*starts, strict=True))
    return {
        "tokens_per_second_inside": round(theirs_rate, 1),
        "tokens_per_second_through": round(ours_rate, 1),
        "tokens_ratio": round(ratio, 3),
        "first_token_inside_ms": round(min(token for (_, token), _ in firsts) * 1000, 2),
        "first_token_later_ms": round(later, 2),
        "llm_up_seconds": round(up_seconds, 2),
        "bare_container_seconds": round(bare_seconds, 2),
        "start_ratio": round(up_seconds / bare_seconds, 2),
        "peak_mib": round(peak, 1),
        "goals_met": ratio >= 0.98 and later <= 2 and up_seconds <= 1.2 * bare_seconds and not killed,
    }


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def quiet(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def inside(pid: int) -> Asked:
    """The engine asked in its own network namespace."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    sock = InsideSockets(descriptor).new()
    sock.connect(("127.0.0.1", 8080))
    link = http.client.HTTPConnection("127.0.0.1", 8080)
    link.sock = sock
    return link, ""


def through(port: int) -> Asked:
    """Proxy, policy, audit log, relay."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=120), "http://127.0.0.1:8080"


def stamps(asked: Asked, tokens: int) -> tuple[float, list[float]]:
    """Seconds from the request to the head of the stream and to each token, over a connection that is kept."""
    link, via = asked
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, "stream": True})
    began = time.perf_counter()
    link.request("POST", f"{via}/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer, found = link.getresponse(), []
    head = time.perf_counter() - began
    while line := answer.readline():
        if b'"content"' in line:
            found.append(time.perf_counter() - began)
    if answer.status != http.HTTPStatus.OK or not found:
        raise RuntimeError(f"the model answered {answer.status} with {len(found)} tokens")
    return head, found


def first(asked: Asked) -> tuple[float, float]:
    """Seconds to the head and to the first token."""
    head, found = stamps(asked, 1)
    return head, found[0]


def rate(asked: Asked) -> float:
    _, found = stamps(asked, TOKENS)
    return len(found) / found[-1]


def bare_start(engine: Engine, models: Path) -> float:
    """Seconds from `docker run` to the first 200, with the same limits and without the seal."""
    name = f"cloned-bench-{secrets.token_hex(4)}"
    env = {"HOST": "127.0.0.1", "PORT": "8080", "MODEL": f"/models/{FILE}", "THREADS": "1"}
    words = [word for key, value in env.items() for word in ("--env", f"LLAMA_ARG_{key}={value}")]
    limits = ["--memory", f"{LIMIT_MIB}m", "--memory-swap", f"{LIMIT_MIB}m", "--cpus", "1", "--network", "none"]
    began = time.perf_counter()
    try:
        quiet(["docker", "run", "--detach", "--name", name, *limits, *words, "--volume", f"{models}:/models:ro", IMAGE])
        quiet(["nsenter", f"--net=/proc/{engine.state(name).pid}/ns/net", sys.executable, "-c", READY])
        return time.perf_counter() - began
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)


def peak_mib(pid: int) -> float:
    """The most that the container's processes held at once, by the kernel; file pages are not in it."""
    lines = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    peaks = [line for child in (str(pid), *lines) for line in Path(f"/proc/{child}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in peaks if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
