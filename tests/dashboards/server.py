"""A real Prometheus (Debian's) on loopback, with a data directory of its own, ended by its process id."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cloned_proxy.share import share_path
from tests.free_port import free_port

type Labels = dict[str, str]


def need(program: str) -> str:
    """The program's path; without it CI fails, and a person's run skips with the package to install."""
    found = shutil.which(program)
    if found is None:
        message = f"{program} is missing: apt-get install prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@dataclass
class Prometheus:
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        # In the clear: the roots of TLS would take longer to load than the answer takes to come.
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10, verify=False)
        body = answer.json()
        assert body["status"] == "success", (parameters, body)
        return body["data"]

    def values(self, expr: str) -> list[tuple[Labels, float]]:
        """What an instant query finds now: (labels, value), a scalar without labels."""
        data = self.ask("query", query=expr)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def firing(self) -> dict[str, list[Labels]]:
        """The alerts that fire now, with their labels."""
        found: dict[str, list[Labels]] = {}
        for alert in self.ask("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            time.sleep(0.2)

    def scraped(self, jobs: set[str]) -> None:
        """Waits until every one of these jobs was scraped again, from now on."""
        now = time.time()

        def later() -> bool:
            at = {labels["job"]: value for labels, value in self.values("min by (job) (timestamp(up))")}
            return all(at.get(job, 0) > now for job in jobs)

        self.wait(later, f"a scrape of {jobs}")


type Ports = Mapping[str, int | Sequence[int]]
"""The port on loopback of each job, or all of its ports."""


def configuration(directory: Path, targets: Ports) -> Path:
    """The shipped prometheus.yml and rules.yml, hurried: a scrape a second, alerts a second after their cause."""
    config = yaml.safe_load(share_path("dashboards", "prometheus.yml").read_text())
    rules = yaml.safe_load(share_path("dashboards", "rules.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for name, given in targets.items():
        job = jobs.setdefault(name, {"job_name": name})
        ports = [given] if isinstance(given, int) else given
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    config["scrape_configs"] = list(jobs.values())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
    (directory / "rules.yml").write_text(yaml.safe_dump(rules))
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def running(directory: Path, targets: Ports) -> Iterator[Prometheus]:
    program = need("prometheus")
    config = configuration(directory, targets)
    address = f"127.0.0.1:{free_port()}"
    command = [
        program, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}", "--enable-feature=exemplar-storage", "--log.level=warn",
    ]  # fmt: skip
    log = directory / "prometheus.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        server = Prometheus(f"http://{address}")
        server.wait(lambda: _ready(server.url, process, log), "Prometheus ready")
        yield server
    finally:
        process.terminate()
        process.wait(60)


def _ready(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return httpx.get(f"{url}/-/ready", timeout=2, verify=False).status_code == 200
    except httpx.TransportError:
        return False
