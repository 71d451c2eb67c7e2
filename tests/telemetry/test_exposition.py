from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry

from cloned_proxy.telemetry.exposition import Exposition
from cloned_proxy.telemetry.metrics import Metrics


class Endpoint:
    def __init__(self) -> None:
        self.problems: tuple[str, ...] = ()
        self.broken = False
        self.metrics = Metrics(CollectorRegistry())
        self.server = Exposition(("127.0.0.1", 0), self.metrics.registry, self._ask)
        self.url = "http://{}:{}".format(*self.server.address)

    def _ask(self) -> tuple[str, ...]:
        if self.broken:
            raise RuntimeError("no idea")
        return self.problems


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.close()


def test_metrics_in_both_formats(endpoint: Endpoint) -> None:
    plain = httpx.get(f"{endpoint.url}/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "cloned_proxy_build_info{" in plain.text
    modern = httpx.get(f"{endpoint.url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


def test_ready_only_without_problems(endpoint: Endpoint) -> None:
    assert httpx.get(f"{endpoint.url}/readyz").status_code == 200
    endpoint.problems = ("no valid policy", "the audit writer is not running")
    answer = httpx.get(f"{endpoint.url}/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "not ready", "problems": list(endpoint.problems)}
    assert httpx.get(f"{endpoint.url}/healthz").status_code == 200


def test_a_readiness_check_that_fails_is_not_ready(endpoint: Endpoint) -> None:
    endpoint.broken = True
    assert httpx.get(f"{endpoint.url}/readyz").status_code == 503


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("HEAD", "/metrics", 200), ("GET", "/", 404), ("POST", "/metrics", 501), ("DELETE", "/readyz", 501)],
)
def test_only_get_and_head_of_three_paths(endpoint: Endpoint, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, endpoint.url + path)
    assert answer.status_code == status
    if method == "HEAD":
        assert answer.content == b""


def test_connections_are_bounded_and_the_rest_are_closed(endpoint: Endpoint) -> None:
    idle = [socket.create_connection(endpoint.server.address, timeout=5) for _ in range(30)]
    closed = 0
    for connection in reversed(idle):
        connection.settimeout(0.3)
        try:
            closed += connection.recv(1) == b""
        except ConnectionResetError:
            closed += 1
        except TimeoutError:
            break
    for connection in idle:
        connection.close()
    assert closed == 14


def test_a_taken_port_is_an_os_error(endpoint: Endpoint) -> None:
    with pytest.raises(OSError, match="in use"):
        Exposition(endpoint.server.address, CollectorRegistry(), tuple)


def test_logs_are_lines_of_json_on_stderr_when_asked() -> None:
    code = (
        "from cloned_proxy.telemetry.log import configure_logging as c; import structlog; "
        "c('json'); structlog.get_logger().info('hello', n=1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == ""
    line = json.loads(done.stderr)
    assert (line["event"], line["n"], line["level"]) == ("hello", 1, "info")
