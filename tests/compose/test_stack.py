"""The stack as a newcomer starts it: one command, one denied call of a sandboxed tool, found everywhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cloned_proxy.runner.docker.engine import Engine
from tests.compose.images import PROXY, TAGS, build_all
from tests.compose.test_files import COMPOSE

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.checkout]

PROJECT = "clonedtest"
TOOL = "demo.tool@v1"
SECONDS = 60
"""For what takes 15 s on a machine at rest: `tests/dashboards/test_files.py` holds the intervals that make them up."""
# Any free port: what the engine publishes differs between engines, and is compose's own business.
PORTS = {f"{name}_PORT": "0" for name in ("PROXY", "CONTROL", "MODEL", "GRAFANA", "PROMETHEUS")}
IMAGES = {f"{name.upper()}_IMAGE": tag for name, tag in TAGS.items()}
MEGABYTE = 1_000_000


@dataclass
class Stack:
    engine: Engine

    def compose(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker-compose", "--project-name", PROJECT, *words],
            cwd=COMPOSE,
            env={**os.environ, **PORTS, **IMAGES, "LOCALAI_CPUS": "1"},
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def inspect(self, service: str) -> dict[str, Any]:
        return self.engine.inspect(f"{PROJECT}_{service}_1")

    def address(self, service: str) -> str:
        """Of a room, on its own network: the engine of the tests publishes nothing."""
        (network,) = self.inspect(service)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def ask(self, room: str, port: int, path: str, **fields: Any) -> httpx.Response:
        return httpx.get(f"http://{self.address(room)}:{port}{path}", timeout=10, trust_env=False, **fields)

    def in_tool(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.compose("run", "--rm", "-T", "tool", *command, check=False)


@pytest.fixture(scope="module")
def stack(engine: Engine) -> Iterator[Stack]:
    build_all(engine)
    found = Stack(engine)
    found.compose("down", "--volumes", "--remove-orphans", check=False)
    try:
        found.compose("up", "--detach", "--no-build")
        yield found
    finally:
        found.compose("down", "--volumes", "--remove-orphans")


def eventually(condition: Callable[[], object], what: str, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.3)
    return found


def test_the_proxys_image_is_small_and_no_root(stack: Stack) -> None:
    facts = stack.engine.image(PROXY)
    assert facts["Size"] < 208 * MEGABYTE, f"{facts['Size'] / MEGABYTE:.0f} MB"
    assert facts["Config"]["User"] == "65532:65532"
    assert "readyz" in " ".join(facts["Config"]["Healthcheck"]["Test"])


_IMPORTS = """
import ast, importlib, importlib.util, pathlib, cloned_proxy
here = pathlib.Path(cloned_proxy.__file__).parent
wanted = set()
for file in set(here.rglob("*.py")) - set((here / "_share").rglob("*.py")):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            wanted.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            wanted.add(node.module)
for module in sorted(wanted - {"keyring", "pypac.parser"}):
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(f"{module}: {error}")
print(*(name for name in ("mitmproxy", "flask", "tornado", "urwid") if importlib.util.find_spec(name)))
"""


def test_the_proxys_image_has_all_that_is_imported_and_nothing_of_mitmproxy(stack: Stack) -> None:
    """Also what a function imports when it is called, of the extras that the image has."""
    done = stack.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "python3", "pairing", "-c", _IMPORTS)
    assert done.stdout.split() == [], done.stdout
    programs = stack.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "ls", "pairing", "/opt/cloned-proxy/bin")
    assert "cloned-proxy" in programs.stdout.split()
    assert not {"mitmproxy", "mitmdump", "mitmweb"} & set(programs.stdout.split())


def test_everything_becomes_healthy(stack: Stack) -> None:
    waiting = {"gateway", "proxy", "model-slot", "localai", "tool-slot", "desk", "prometheus", "grafana"}

    def healthy() -> bool:
        return all(stack.inspect(service)["State"]["Health"]["Status"] == "healthy" for service in waiting)

    eventually(healthy, "every service healthy", 90)
    assert stack.inspect("pairing")["State"]["ExitCode"] == 0


def test_grafana_has_a_password_that_nobody_knows_beforehand(stack: Stack) -> None:
    file = stack.compose("exec", "-T", "grafana", "printenv", "GF_SECURITY_ADMIN_PASSWORD__FILE").stdout.strip()
    assert len(stack.compose("exec", "-T", "grafana", "cat", file).stdout) >= 32
    assert stack.compose("exec", "-T", "grafana", "stat", "-c", "%a", file).stdout.strip() == "640"


def test_a_denied_call_of_a_sandboxed_tool_is_found_everywhere(stack: Stack) -> None:
    """The promise of `docs/operations.md`, with the clock running."""
    host = f"nobody-{os.getpid()}.example"
    done = stack.in_tool("curl", "-sS", f"http://{host}/secret")
    began = time.monotonic()
    answer = json.loads(done.stdout)
    assert (answer["reason"], answer["tool"]) == ("host_not_allowed", TOOL)

    def left() -> float:
        return SECONDS - (time.monotonic() - began)

    # In the dashboards' data: what the panel of blocked hosts asks Prometheus, through Grafana's own data source.
    query = {"query": f'cloned_proxy_blocked_hosts_total{{host="{host}"}}'}

    def counted() -> Any:
        found = stack.ask("desk", 3000, "/prometheus", params=query).json()
        return [float(series["value"][1]) for series in found["data"]["result"]]

    assert eventually(counted, "the count in Prometheus", left()) == [1.0]
    # As a row of `Blocked calls`: the control API through Grafana's other data source, with the provisioned token.
    rows = stack.ask("desk", 3000, "/control/api/v1/decisions", params={"verdict": "deny", "host": host}).json()
    (row,) = rows["items"]
    assert (row["id"], row["hint"]) == (answer["decision_id"], f"cloned-proxy allow {host} --tool {TOOL}")
    # In the UI, as a browser that was paired: through the port that is published, under the only name it answers to.
    code = json.loads(stack.compose("exec", "-T", "proxy", "cloned-proxy", "pair", "--json").stdout)["code"]
    place = f"http://{stack.address('gateway')}:18082"
    own = {"Host": "127.0.0.1:8082", "Origin": "http://127.0.0.1:8082", "X-Cloned-Request": "1"}
    with httpx.Client(base_url=place, headers=own, trust_env=False, timeout=10) as browser:
        paired = browser.post("/api/v1/pair", json={"code": code, "name": "newcomer"})
        assert paired.status_code in {200, 201}, paired.text
        cookie = paired.headers["set-cookie"].partition(";")[0]
        shown = browser.get(f"/api/v1/decisions/{row['id']}", headers={"Cookie": cookie}).json()
        assert (shown["tool"], shown["host"], shown["path"]) == (TOOL, host, "/secret")
    assert left() > 0, f"{SECONDS - left():.1f} s"


def test_the_model_is_reached_where_it_is_on_a_host_and_scraped(stack: Stack) -> None:
    assert stack.ask("gateway", 18080, "/v1/models").json()["data"][0]["id"] == "stand-in"
    found = stack.ask("desk", 3000, "/prometheus", params={"query": "up"}).json()["data"]["result"]
    assert {series["metric"]["job"]: series["value"][1] for series in found} == {"cloned-proxy": "1", "localai": "1"}
    titles = stack.ask("desk", 3000, "/api/search").json()
    assert len(titles) == len(list((COMPOSE.parent / "dashboards").glob("*.json")))


def test_no_room_but_the_proxys_has_a_way_out(stack: Stack) -> None:
    """A canary on the host's side of each network; what a room's route table allows is tried, not read."""
    canary = stack.address("gateway")  # 8081 there is the proxy: from other rooms it must not even be reachable
    attempt = (
        "import socket,sys\n"
        "try:\n  socket.create_connection((sys.argv[1], 8081), 3)\n"
        "except OSError as error:\n  print('refused', error)\n"
        "else:\n  print('REACHED')"
    )
    control = stack.compose("exec", "-T", "proxy", "python3", "-c", attempt, canary).stdout
    assert "REACHED" in control, control  # the canary works
    for service in ("localai", "grafana"):
        said = stack.compose("exec", "-T", service, "python3", "-c", attempt, canary).stdout
        assert said.startswith("refused"), (service, said)
    devices = stack.in_tool("sh", "-c", "cat /proc/net/dev | tail -n +3 | cut -d: -f1").stdout.split()
    assert devices == ["lo"]
    model = stack.compose("exec", "-T", "localai", "python3", "-c", "print(open('/proc/net/dev').read())").stdout
    assert re.findall(r"^\s*(\w+):", model, re.MULTILINE) == ["lo"]


def test_the_model_speaks_under_its_own_name(stack: Stack) -> None:
    ask = "import urllib.request as u; u.urlopen('http://elsewhere.example/')"
    done = stack.compose("exec", "-T", "localai", "python3", "-c", ask, check=False)
    assert "403" in done.stderr, done.stderr
    log = stack.compose(
        "exec", "-T", "proxy", "cloned-proxy", "log", "--json", "--denied", "--tool", "local.ai@v1"
    ).stdout
    assert [json.loads(line)["host"] for line in log.splitlines()] == ["elsewhere.example"]


def test_the_dashboards_token_changes_nothing(stack: Stack) -> None:
    token = stack.compose("exec", "-T", "grafana", "cat", "/var/lib/cloned-token/api").stdout.strip()
    place = f"http://{stack.address('gateway')}:18082/api/v1/devices/0123456789abcdef"
    headers = {"Host": "127.0.0.1:8082", "Authorization": f"Bearer {token}"}
    assert httpx.delete(place, headers=headers, trust_env=False, timeout=10).status_code == 403


def test_a_restarted_proxy_finds_its_rooms_again(stack: Stack) -> None:
    stack.compose("restart", "proxy")
    eventually(
        lambda: stack.in_tool("curl", "-sS", "http://again.example/").stdout.startswith("{"), "the tool's way", 60
    )
    eventually(
        lambda: stack.ask("gateway", 18082, "/pair", headers={"Host": "127.0.0.1:8082"}).status_code == 200,
        "control",
        30,
    )


def test_afterwards_nothing_is_left(engine: Engine, stack: Stack) -> None:
    stack.compose("down", "--volumes", "--remove-orphans")
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        words = ["docker", *kind, "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "", (kind, done.stdout)
