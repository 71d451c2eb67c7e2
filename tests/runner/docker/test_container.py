"""A running tool against docs/sandbox.md#what-docker-inspect-shows, and what the tool itself sees."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.errors import GoneError
from cloned_proxy.runner.values.spec import TOOL_LABEL, WORKSPACE_LABEL, workspace_mark
from cloned_proxy.share import share_path
from tests.runner.jobs import TOOL, run, sh

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def inspected(module_runner: DockerContainerRunner, engine: Engine) -> dict[str, Any]:
    """What the engine says of a tool while it runs."""
    found: list[dict[str, Any]] = []

    def look() -> None:
        while not found:
            for container, mark in engine.owned(WORKSPACE_LABEL):
                with contextlib.suppress(GoneError):
                    facts = engine.inspect(container)
                    ours = mark == workspace_mark(module_runner.workspace)
                    if ours and TOOL_LABEL in facts["Config"]["Labels"] and facts["State"]["Running"]:
                        found.append(facts)
                        return

    looking = threading.Thread(target=look)
    looking.start()
    seen = sh(module_runner, "sleep 1.5; env")
    looking.join(60)
    return {**found[0], "seen_env": seen.out}


def test_name_and_labels(inspected: dict[str, Any]) -> None:
    run_id = inspected["Config"]["Labels"]["cloned.run"]
    assert inspected["Name"] == f"/cloned_tool_{run_id}"
    assert inspected["Config"]["Labels"]["cloned.tool"] == TOOL


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("ReadonlyRootfs", True),
        ("Privileged", False),
        ("CapAdd", None),
        ("CapDrop", ["ALL"]),
        ("PidsLimit", 256),
        ("Memory", 536870912),
        ("MemorySwap", 536870912),
        ("NanoCpus", 1000000000),
        ("Init", True),
        ("PidMode", ""),
        ("UTSMode", ""),
        ("UsernsMode", ""),
        ("IpcMode", "private"),
        ("PublishAllPorts", False),
        ("Devices", None),
        ("RestartPolicy", {"Name": "no", "MaximumRetryCount": 0}),
    ],
)
def test_hardening(inspected: dict[str, Any], knob: str, value: Any) -> None:
    found = inspected["HostConfig"][knob]
    assert (found or None) == (value or None)


def test_tmpfs_and_mounts(inspected: dict[str, Any]) -> None:
    tmpfs = inspected["HostConfig"]["Tmpfs"]
    assert tmpfs["/tmp"] == "rw,noexec,nosuid,nodev,size=64m"
    assert tmpfs["/home/tool"] == "rw,exec,nosuid,nodev,size=256m,mode=0700,uid=65532,gid=65532"
    mounts = {mount["Destination"]: mount["RW"] for mount in inspected["Mounts"]}
    assert mounts == {"/workspace": False, "/sandbox": True}
    assert {mount["Propagation"] for mount in inspected["Mounts"]} == {"rprivate"}


def test_seccomp_and_no_new_privileges(inspected: dict[str, Any]) -> None:
    options = inspected["HostConfig"]["SecurityOpt"]
    assert "no-new-privileges:true" in options
    profile = next(option for option in options if option.startswith("seccomp="))
    found = json.loads(profile.removeprefix("seccomp="))
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"
    assert found == json.loads(share_path("sandbox", "seccomp.json").read_text())


def test_limits_and_log(inspected: dict[str, Any]) -> None:
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in inspected["HostConfig"]["Ulimits"]}
    assert (limits["nofile"], limits["core"]) == ((1024, 1024), (0, 0))
    assert inspected["HostConfig"]["LogConfig"]["Config"] == {"max-size": "1m", "max-file": "1"}


def test_a_user_that_is_not_root(inspected: dict[str, Any]) -> None:
    assert inspected["Config"]["User"] == "65532:65532"


def test_the_environment_is_the_contracts_and_the_images_path(inspected: dict[str, Any]) -> None:
    values = dict(line.split("=", 1) for line in inspected["Config"]["Env"])
    words = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    proxies = {name: "http://127.0.0.1:8081" for word in words for name in (word, word.lower())}
    named = {
        "NO_PROXY": "nothing.invalid",
        "no_proxy": "nothing.invalid",
        "NODE_USE_ENV_PROXY": "1",
        "HOME": "/home/tool",
        "CLONED_SANDBOX": "1",
        "CLONED_TOOL": TOOL,
    }
    free = {"CLONED_CONTAINER_NAME", "PATH"}
    assert values.keys() >= free
    assert {name: value for name, value in values.items() if name not in free} == proxies | named | {
        "CLONED_TOOL": TOOL
    }
    assert f"/{values['CLONED_CONTAINER_NAME']}" == inspected["Name"]
    assert "HTTP_PROXY=http://127.0.0.1:8081\n" in inspected["seen_env"]


def test_no_port_no_address_no_engine_socket(inspected: dict[str, Any]) -> None:
    network = inspected["NetworkSettings"]
    assert not network["Ports"]
    assert not network["IPAddress"]
    assert not any("docker" in mount["Source"] and mount["Source"].endswith(".sock") for mount in inspected["Mounts"])


CHECKS = [
    ("it has no capability", "grep Cap /proc/self/status | grep -v 0000000000000000", 1),
    ("no new privileges can be gained", "grep -q 'NoNewPrivs:.1' /proc/self/status", 0),
    ("a system-call filter is on", "grep -q 'Seccomp:.2' /proc/self/status", 0),
    ("the root is read-only", "touch /usr/x", 1),
    ("the workspace is read-only", "touch /workspace/x", 1),
    ("the scratch directory is writable", "touch /sandbox/x", 0),
    ("/tmp does not execute", "cp /bin/true /tmp/t && chmod +x /tmp/t && /tmp/t", 126),
    ("the home executes", "cp /bin/true ~/t && ~/t", 0),
    ("the home is its user's own", 'test "$(stat -c %u:%g:%a ~)" = 65532:65532:700', 0),
    ("the home ignores setuid bits and devices", "grep ' /home/tool ' /proc/mounts | grep nosuid | grep -q nodev", 0),
    ("the home is bounded", "head -c 140000000 /dev/zero > ~/a && head -c 140000000 /dev/zero > ~/b", 1),
    ("/tmp is bounded", "head -c 70000000 /dev/zero > /tmp/big", 1),
    ("the workspace's secrets are out of reach", "ls -A /workspace/.cloned | grep .", 1),
    ("nothing can be put in their place", "touch /workspace/.cloned/x", 1),
    ("the workspace's secrets are covered", 'test "$(stat -f -c %T /workspace/.cloned)" = tmpfs', 0),
    ("there is only loopback", 'test "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d " ")" = lo', 0),
    ("there is no route", 'test "$(wc -l < /proc/net/route)" = 1', 0),
    ("nothing is root's by a set-uid bit", "find / -xdev -perm /6000 -type f 2>/dev/null | grep -q .", 1),
]


@pytest.mark.parametrize(("script", "code"), [c[1:] for c in CHECKS], ids=[c[0] for c in CHECKS])
def test_inside(runner: DockerContainerRunner, script: str, code: int) -> None:
    seen = sh(runner, script)
    assert seen.code == code, seen


def test_stdin_stdout_stderr_and_the_exit_code_pass_through(runner: DockerContainerRunner) -> None:
    seen = run(runner, "sh", "-c", "cat; echo oops >&2; exit 37", stdin=b"hello\n")
    assert (seen.out, seen.err, seen.code) == ("hello\n", "oops\n", 37)


def test_names_for_the_user_exist(runner: DockerContainerRunner) -> None:
    program = "import getpass, os, pathlib; print(getpass.getuser(), pathlib.Path.home())"
    assert run(runner, "python3", "-c", program).out == "tool /home/tool\n"
