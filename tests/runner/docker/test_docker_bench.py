"""The container section (5) of the CIS Docker Benchmark, as docker-bench-security checks it, on tool and holder.

Left out, because they do not apply: 5.2 SELinux (the engine's), 5.6 sshd, 5.7 and 5.13 published ports (5.8 shows
that there are none), 5.22 and 5.23 `docker exec`, 5.26 health checks (a tool runs once and ends), 5.27 image updates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.docker.stream import OutputStream
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.spec import OWNER_LABEL
from tests.runner.jobs import TOOL

pytestmark = pytest.mark.docker
SENSITIVE = {"/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/var", "/root", "/home"}

type Facts = dict[str, Any]


@pytest.fixture(scope="module")
def containers(module_runner: DockerContainerRunner, engine: Engine) -> dict[str, Facts]:
    """What the engine says of a tool and of its holder, while both run."""
    found: dict[str, Facts] = {}

    def look(_kind: OutputStream, _said: bytes) -> None:
        for container, mark in engine.owned(OWNER_LABEL):
            if mark == module_runner._site.owner and (facts := engine.inspect(container))["State"]["Running"]:
                found["tool" if facts["Name"].startswith("/cloned_tool_") else "holder"] = facts

    job = Job(tool=TOOL, program=ToolProgram(PYTHON_IMAGE, ("sh", "-c", "echo up; sleep 1")))
    module_runner.run(job, feed=lambda stream: stream.end_input(), output=look)
    assert found.keys() == {"tool", "holder"}
    return found


def _host(facts: Facts) -> Facts:
    found: Facts = facts["HostConfig"]
    return found


def _sources(facts: Facts) -> list[str]:
    return [str(mount["Source"]) for mount in facts["Mounts"]]


CHECKS: list[tuple[str, Callable[[Facts], bool]]] = [
    ("5.1 AppArmor is not switched off", lambda f: f["AppArmorProfile"] != "unconfined"),
    (
        "5.3 no capability is added, all are dropped",
        lambda f: not _host(f)["CapAdd"] and _host(f)["CapDrop"] == ["ALL"],
    ),
    ("5.4 not privileged", lambda f: _host(f)["Privileged"] is False),
    ("5.5 no sensitive directory of the host", lambda f: not SENSITIVE & set(_sources(f))),
    ("5.8 no port is open to anybody", lambda f: not _host(f)["PortBindings"] and not _host(f)["PublishAllPorts"]),
    ("5.9 not the host's network", lambda f: _host(f)["NetworkMode"] != "host"),
    ("5.10 memory is limited, swap is not added", lambda f: 0 < _host(f)["Memory"] == _host(f)["MemorySwap"]),
    ("5.11 processor time is limited", lambda f: _host(f)["NanoCpus"] > 0),
    ("5.12 the root is read-only", lambda f: _host(f)["ReadonlyRootfs"] is True),
    ("5.14 it is not restarted without end", lambda f: _host(f)["RestartPolicy"]["Name"] in ("", "no")),
    ("5.15 not the host's processes", lambda f: _host(f)["PidMode"] == ""),
    ("5.16 not the host's IPC", lambda f: _host(f)["IpcMode"] == "private"),
    ("5.17 no device", lambda f: not _host(f)["Devices"] and not _host(f)["DeviceCgroupRules"]),
    ("5.18 limits of its own", lambda f: {"nofile", "core"} <= {limit["Name"] for limit in _host(f)["Ulimits"] or ()}),
    ("5.19 mounts do not propagate", lambda f: all("shared" not in m["Propagation"] for m in f["Mounts"])),
    ("5.20 not the host's name", lambda f: _host(f)["UTSMode"] == ""),
    (
        "5.21 system calls are filtered",
        lambda f: (
            any(o.startswith("seccomp={") for o in _host(f)["SecurityOpt"] or ())
            and not any("unconfined" in o for o in _host(f)["SecurityOpt"] or ())
        ),
    ),
    ("5.24 its own control group", lambda f: not _host(f)["CgroupParent"] and _host(f)["CgroupnsMode"] == "private"),
    ("5.25 no new privileges", lambda f: "no-new-privileges:true" in (_host(f)["SecurityOpt"] or ())),
    ("5.28 processes are limited", lambda f: 0 < (_host(f)["PidsLimit"] or 0) <= 256),
    ("5.29 not the default bridge", lambda f: _host(f)["NetworkMode"] not in ("default", "bridge")),
    ("5.30 not the host's users by choice", lambda f: _host(f)["UsernsMode"] != "host"),
    ("5.31 no engine socket", lambda f: not any(source.endswith(".sock") for source in _sources(f))),
    ("4.1 not root", lambda f: f["Config"]["User"].partition(":")[0] not in ("", "0", "root")),
]


@pytest.mark.parametrize("which", ["tool", "holder"])
@pytest.mark.parametrize("check", [row[1] for row in CHECKS], ids=[row[0] for row in CHECKS])
def test_benchmark(containers: dict[str, Facts], check: Any, which: str) -> None:
    assert check(containers[which])


def test_the_checks_can_fail(engine: Engine, images: Engine) -> None:
    """An ordinary container, as `docker run` makes it, fails most of them."""
    container = engine.create("cloned_bench_ordinary", {"Image": "cloned-worker:latest", "User": "0:0"})
    try:
        facts = engine.inspect(container)
        failed = {name.split()[0] for name, check in CHECKS if not check(facts)}
    finally:
        engine.remove(container)
    assert {"5.3", "5.10", "5.11", "5.12", "5.21", "5.25", "5.29", "4.1"} <= failed
