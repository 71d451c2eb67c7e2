"""Setting up a TLS connection from a slot: by the names that it answers for, beside the same through HTTP_PROXY.

python -m bench.transparent      needs an engine, root, and a name of this machine that it can resolve

Goal: at most 1.3 times as long. Both are measured in turns, in one container, to one server on this machine.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme

from bench.alone import bring_images
from cloned_proxy.runner.docker.stream import Attached
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.runs.execution import Collected
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.standby import proxy_for
from cloned_proxy.runner.values.errors import SandboxError

RATIO = 1.3
_TOOL = "bench.tool@v1"
_TURNS = 200
_CLIENT = """
import json, socket, ssl, statistics, sys, time
name, port, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
tls = ssl.create_default_context(); tls.check_hostname = False; tls.verify_mode = ssl.CERT_NONE
def proxied():
    sock = socket.create_connection(("127.0.0.1", 8081))
    sock.sendall(b"CONNECT %b:%d HTTP/1.1\\r\\nHost: %b:%d\\r\\n\\r\\n" % (name.encode(), port, name.encode(), port))
    assert b" 200 " in sock.recv(1000)
    return sock
def dialled():
    return socket.create_connection((name, port))
def milliseconds(connect):
    began = time.perf_counter()
    with tls.wrap_socket(connect(), server_hostname=name): return (time.perf_counter() - began) * 1000
for way in (proxied, dialled): milliseconds(way)
both = [(milliseconds(proxied), milliseconds(dialled)) for _ in range(turns)]
print(json.dumps([statistics.median(times) for times in zip(*both)]))
"""


def measure() -> dict[str, float | bool]:
    """Milliseconds of either way and their ratio; nothing where this machine's own name leads nowhere."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        return {}
    with tempfile.TemporaryDirectory() as directory, _server(address, name) as port:
        workspace = Path(directory) / "project" / ".cloned"
        workspace.mkdir(mode=0o700, parents=True)
        rule = f"{{host: {name}, ports: [{port}], addresses: [private, reserved]}}"
        (workspace / "policy.yaml").write_text(f"version: 1\ntools: {{{_TOOL}: {{allow: [{rule}]}}}}\n")
        collected = Collected(1_000_000)

        def feed(stream: Attached) -> None:
            stream.end_input()

        with proxy_for(workspace, lambda _: None), DockerContainerRunner(workspace=workspace) as runner:
            words = ("python3", "-c", _CLIENT, name, str(port), str(_TURNS))
            _, outcome = runner.run(
                Job(tool=_TOOL, program=ToolProgram(PYTHON_IMAGE, words)), feed=feed, output=collected
            )
        if outcome.exit_code:
            raise SystemExit(collected.stderr.decode(errors="replace"))
    proxied, dialled = json.loads(bytes(collected.stdout))
    return {
        "http_proxy_setup_ms": round(proxied, 2),
        "transparent_setup_ms": round(dialled, 2),
        "transparent_ratio": round(dialled / proxied, 2),
        "transparent_goal_met": dialled <= RATIO * proxied,
    }


@contextlib.contextmanager
def _server(address: str, name: str) -> Iterator[int]:
    """A TLS server that reads until its client has gone; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(name).configure_cert(context)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # the measurement is over
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                while tls.recv(1000):
                    pass

    with socket.create_server((address, 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield int(listening.getsockname()[1])
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def main() -> int:
    """Prints one JSON object."""
    try:
        bring_images()
        sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
    except SandboxError as error:
        sys.stderr.write(f"slots are not measured: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
