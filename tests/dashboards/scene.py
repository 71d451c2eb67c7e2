"""A real `serve` under a scripted mix of traffic, a real Prometheus that scrapes it, and labelled stand-ins."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from urllib.parse import quote

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from cloned_proxy.telemetry.sandbox_metrics import START_BUCKETS
from tests.cli.program import TOOL, Origin, Serving, Workspace
from tests.dashboards.server import Prometheus, running

OTHER = "other.tool@v1"
ECHOED = b"0123456789"


class Echo(ThreadingTCPServer):
    """What a tunnel leads to."""

    daemon_threads = True
    allow_reuse_address = True

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(4096):
                self.request.sendall(data)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.port: int = self.server_address[1]


class StandIn:
    """Answers a scrape in place of a program that is not here (LocalAI)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.server, self._thread = start_http_server(0, "127.0.0.1", registry=self.registry)
        self.port: int = self.server.server_port

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(5)


class ModelStandIn(StandIn):
    """Says what llama.cpp's server, vLLM and LocalAI say of themselves, each its part."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        counters = ("llamacpp:tokens_predicted", "llamacpp:prompt_tokens")
        self.tokens = [Counter(name, "Stand-in.", registry=registry) for name in counters]
        for name in ("llamacpp:requests_processing", "llamacpp:requests_deferred", "process_resident_memory_bytes"):
            Gauge(name, "Stand-in.", registry=registry).set(2)
        self.first = Histogram("vllm:time_to_first_token_seconds", "Stand-in.", registry=registry)
        self.calls = Histogram("api_call", "Stand-in.", ("path",), registry=registry)

    def round(self) -> None:
        for counter in self.tokens:
            counter.inc(50)
        self.first.observe(0.2)
        self.calls.labels("/v1/chat/completions").observe(2)


class SandboxStandIn(StandIn):
    """Says what sandboxed runs and the probe would, without an engine."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.runs = Counter("cloned_proxy_sandbox_runs", "Stand-in.", ("tool", "result"), registry=registry)
        name, buckets = "cloned_proxy_sandbox_start_duration_seconds", START_BUCKETS
        self.started = Histogram(name, "Stand-in.", registry=registry, buckets=buckets)
        self.slots = Gauge("cloned_proxy_sandbox_slots", "Stand-in.", registry=registry)
        self.slots.set(2)
        self.sealed = Gauge("cloned_proxy_isolation_probe_success", "Stand-in.", registry=registry)
        self.sealed.set(1)

    def round(self) -> None:
        self.runs.labels(TOOL, "ok").inc(2)
        self.runs.labels(TOOL, "timeout").inc()
        self.started.observe(0.3)


@dataclass
class Scene:
    workspace: Workspace
    serving: Serving
    prometheus: Prometheus
    origin: Origin
    echo: Echo
    sandbox: SandboxStandIn
    model: ModelStandIn
    tokens: dict[str, str]
    held: list[socket.socket] = field(default_factory=list)

    def let_go(self) -> None:
        for tunnel in self.held:
            tunnel.close()

    def credential(self, tool: str, token: str) -> dict[str, str]:
        pair = f"{quote(tool, safe='')}:{token}".encode()
        return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}

    @property
    def demo(self) -> dict[str, str]:
        return self.credential(TOOL, self.tokens[TOOL])

    def round(self) -> None:
        """4 allowed, 5 denied by host, 3 forged, 1 inspected and denied by method, 1 tunnel there and back."""
        for _ in range(4):
            assert self.serving.get(self.origin.url(), headers=self.demo).status == 200
        for host in ("one.example", "two.example", "two.example"):
            assert self.serving.get(f"http://{host}/").status == 403
        for _ in range(2):
            assert self.serving.get("http://exfil.example/", headers=self.demo).status == 403
        for tool, token in ((TOOL, self.tokens[OTHER]), (TOOL, self.tokens[OTHER]), (TOOL, "forged")):
            assert self.serving.get(self.origin.url(), headers=self.credential(tool, token)).status in {403, 407}
        self.inspected()
        tunnel = self.connect(self.echo.port)
        tunnel.sendall(ECHOED)
        assert tunnel.recv(100) == ECHOED
        tunnel.close()
        self.sandbox.round()
        self.model.round()

    def connect(self, port: int) -> socket.socket:
        tunnel = socket.create_connection(("127.0.0.1", self.serving.port), timeout=10)
        name, value = next(iter(self.demo.items()))
        target = f"127.0.0.1:{port}"
        tunnel.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{name}: {value}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = tunnel.recv(1)
            assert byte, head
            head += byte
        assert head.startswith(b"HTTP/1.1 200"), head
        return tunnel

    def inspected(self) -> None:
        """A POST inside an opened TLS whose rule lets only GET pass."""
        tunnel = self.connect(self.origin.port + 1)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # what is counted is asked here, not trust
        with context.wrap_socket(tunnel, server_hostname="127.0.0.1") as stream:
            host = f"127.0.0.1:{self.origin.port + 1}"
            stream.sendall(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
            assert b" 403 " in stream.recv(4096)


def _in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


def policy(origin: Origin, echo: Echo) -> str:
    return (
        "version: 1\nanonymous: global\nglobal: {allow: []}\n"
        f"tools:\n  {OTHER}: {{allow: []}}\n  {TOOL}:\n    allow:\n"
        f"      - {{host: 127.0.0.1, ports: [{origin.port}], expires: {_in_an_hour()}}}\n"
        f"      - {{host: 127.0.0.1, ports: [{echo.port}], protocols: [tcp]}}\n"
        f"      - {{host: 127.0.0.1, ports: [{origin.port + 1}], methods: [GET]}}\n"
    )


@contextmanager
def playing(workspace: Workspace, directory: Path, *arguments: str) -> Iterator[Scene]:
    """Everything is up and was scraped once; the traffic is the test's."""
    with ExitStack() as parts:
        origin, echo = Origin(), Echo()
        parts.callback(origin.close)
        parts.callback(echo.server_close)
        parts.callback(echo.shutdown)
        threading.Thread(target=echo.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        sandbox, model = SandboxStandIn(), ModelStandIn()
        parts.callback(sandbox.close)
        parts.callback(model.close)
        workspace.write_policy(policy(origin, echo))
        serving = workspace.serve(*arguments)
        jobs = {"cloned-proxy": serving.metrics_port, "localai": model.port, "sandbox-stand-in": sandbox.port}
        prometheus = parts.enter_context(running(directory, jobs))
        tokens = {tool: workspace.json("token", tool)["token"] for tool in (TOOL, OTHER)}
        scene = Scene(workspace, serving, prometheus, origin, echo, sandbox, model, tokens)
        parts.callback(scene.let_go)
        prometheus.scraped(set(jobs))
        yield scene
