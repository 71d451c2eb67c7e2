"""The container of a run, as a value: docs/sandbox.md#what-docker-inspect-shows, and everything that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloned_proxy.runner.docker.containers import holder_container, tool_container, tool_environment
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.limits import limits_from
from cloned_proxy.runner.values.spec import (
    CA_FILE,
    MIB,
    HolderSpec,
    Mount,
    SandboxLimits,
    SandboxSpec,
    parse_memory,
)
from cloned_proxy.share import share_path
from cloned_proxy.store.settings.config import SandboxSettings

SPEC = SandboxSpec(
    tool="demo.tool@v1",
    run="0a1b2c3d",
    name="cloned_tool_0a1b2c3d",
    image="cloned-worker:latest",
    command=("true",),
    holder="f" * 64,
    scratch="/srv/scratch",
    seccomp="{}",
    owner="me",
    workspace_mark="abc",
    binds=(Mount("/srv/project", "/workspace"),),
    masked=("/workspace/.cloned",),
)
HOST: dict[str, Any] = tool_container(SPEC)["HostConfig"]

HARDENING: list[tuple[str, Any]] = [
    ("ReadonlyRootfs", True),
    ("Privileged", False),
    ("CapDrop", ["ALL"]),
    ("SecurityOpt", ["no-new-privileges:true", "seccomp={}"]),
    ("PidsLimit", 256),
    ("Memory", 512 * 1024 * 1024),
    ("MemorySwap", 512 * 1024 * 1024),
    ("NanoCpus", 1_000_000_000),
    ("Init", True),
    ("NetworkMode", "container:" + "f" * 64),
    ("IpcMode", "private"),
    ("AutoRemove", False),
]


@pytest.mark.parametrize(("knob", "value"), HARDENING)
def test_every_knob_of_the_contract_is_set(knob: str, value: Any) -> None:
    assert HOST[knob] == value


def test_tmp_is_small_and_cannot_execute() -> None:
    assert HOST["Tmpfs"]["/tmp"] == "rw,noexec,nosuid,nodev,size=64m"


def test_the_home_is_executable_memory_of_its_user() -> None:
    assert HOST["Tmpfs"]["/home/tool"] == "rw,exec,nosuid,nodev,size=256m,mode=0700,uid=65532,gid=65532"


@pytest.mark.parametrize(
    ("user", "owner"),
    [("1000", "mode=0700,uid=1000,gid=1000"), ("1000:50", "mode=0700,uid=1000,gid=50"), ("node", "mode=1777")],
)
def test_a_user_by_name_cannot_own_its_home(user: str, owner: str) -> None:
    made = tool_container(replace(SPEC, user=user))["HostConfig"]["Tmpfs"]["/home/tool"]
    assert made == f"rw,exec,nosuid,nodev,size=256m,{owner}"


def test_a_kept_home_is_mounted_instead_and_may_hold_larger_files() -> None:
    host = tool_container(replace(SPEC, home="/srv/homes/demo"))["HostConfig"]
    assert "/home/tool" not in host["Tmpfs"]
    assert [(m["Source"], m["ReadOnly"]) for m in host["Mounts"] if m["Target"] == "/home/tool"] == [
        ("/srv/homes/demo", False)
    ]
    assert {"Name": "fsize", "Soft": SandboxLimits().kept_home, "Hard": SandboxLimits().kept_home} in host["Ulimits"]


def test_every_size_is_a_setting() -> None:
    settings = SandboxSettings(
        memory_mib=100, tmp_mib=1, home_mib=2, kept_home_mib=3, scratch_mib=4, pids=50, open_files=64, cpus=2.0
    )
    wanted = SandboxLimits(
        cpus=2.0, memory=100 * MIB, pids=50, open_files=64, tmp=MIB, home=2 * MIB, kept_home=3 * MIB, scratch=4 * MIB
    )
    assert limits_from(settings) == wanted
    assert limits_from(settings, cpus=0.5, memory="1g") == replace(wanted, cpus=0.5, memory=1024 * MIB)
    assert limits_from(SandboxSettings()) == SandboxLimits()


def test_the_workspace_is_read_only_and_the_scratch_directory_is_not() -> None:
    assert {(m["Source"], m["Target"], m["ReadOnly"]) for m in HOST["Mounts"]} == {
        ("/srv/project", "/workspace", True),
        ("/srv/scratch", "/sandbox", False),
    }


def test_the_workspaces_secrets_are_masked() -> None:
    assert HOST["Tmpfs"]["/workspace/.cloned"] == "ro,noexec,nosuid,nodev,size=4k,mode=555,uid=65532,gid=65532"


def test_limits_of_open_files_core_and_log() -> None:
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in HOST["Ulimits"]}
    assert limits["nofile"] == (1024, 1024)
    assert limits["core"] == (0, 0)
    assert limits["fsize"] == (SandboxLimits().scratch, SandboxLimits().scratch)
    assert HOST["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}


def test_name_user_and_labels() -> None:
    container = tool_container(SPEC)
    assert container["User"] == "65532:65532"
    assert container["Labels"] == {
        "cloned.tool": "demo.tool@v1",
        "cloned.run": "0a1b2c3d",
        "cloned.owner": "me",
        "cloned.workspace": "abc",
    }


def test_the_environment_is_the_contracts_and_nothing_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    proxy = "http://127.0.0.1:8081"
    assert tool_environment(SPEC) == {
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), proxy),
        "NO_PROXY": "nothing.invalid",
        "no_proxy": "nothing.invalid",
        "NODE_USE_ENV_PROXY": "1",
        "HOME": "/home/tool",
        "CLONED_SANDBOX": "1",
        "CLONED_TOOL": "demo.tool@v1",
        "CLONED_CONTAINER_NAME": "cloned_tool_0a1b2c3d",
    }


def test_the_ca_is_named_to_every_client_when_a_rule_inspects() -> None:
    added = tool_environment(replace(SPEC, with_ca=True)).items() - tool_environment(SPEC).items()
    found = dict(added)
    assert found.pop("JAVA_TOOL_OPTIONS").startswith("-Djavax.net.ssl.trustStore=/sandbox/.cloned-ca.p12 ")
    assert found == dict.fromkeys(
        (
            "AWS_CA_BUNDLE",
            "CARGO_HTTP_CAINFO",
            "CURL_CA_BUNDLE",
            "DENO_CERT",
            "GIT_SSL_CAINFO",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
            "NODE_EXTRA_CA_CERTS",
            "PIP_CERT",
            "REQUESTS_CA_BUNDLE",
            "SSL_CERT_FILE",
        ),
        CA_FILE,
    )


REFUSED: list[tuple[str, Callable[[], SandboxSpec], str]] = [
    ("root by name", lambda: replace(SPEC, user="root"), "never runs as root"),
    ("root by number", lambda: replace(SPEC, user="0:65532"), "never runs as root"),
    ("no user", lambda: replace(SPEC, user=""), "never runs as root"),
    ("no command", lambda: replace(SPEC, command=()), "no command"),
    ("a proxy of one's own", lambda: replace(SPEC, env={"HTTPS_PROXY": "http://evil"}), "set by the sandbox"),
    ("a proxy in lower case", lambda: replace(SPEC, env={"no_proxy": "*"}), "set by the sandbox"),
    ("another identity", lambda: replace(SPEC, env={"CLONED_TOOL": "other@v1"}), "set by the sandbox"),
    ("a CA of one's own", lambda: replace(SPEC, env={"SSL_CERT_FILE": "/x"}), "private CAs stand in"),
    ("a name that is none", lambda: replace(SPEC, env={"A=B": "c"}), "NAME=VALUE"),
    ("a tool id with a line break", lambda: replace(SPEC, tool="a\nb"), "not a tool id"),
    ("a container name of others", lambda: replace(SPEC, name="web"), "not a container name"),
    ("a relative mount", lambda: replace(SPEC, mounts=(Mount("x", "/mnt/x"),)), "absolute"),
    ("a mount over the root", lambda: replace(SPEC, mounts=(Mount("/x", "/"),)), "absolute"),
    ("a mount over the workspace", lambda: replace(SPEC, mounts=(Mount("/x", "/workspace/y"),)), "belongs to"),
    ("a mount over /proc by dots", lambda: replace(SPEC, mounts=(Mount("/x", "/mnt/../proc"),)), "belongs to"),
    ("a mount over the home", lambda: replace(SPEC, mounts=(Mount("/x", "/home/tool/"),)), "the tool's home"),
    ("a mount that hides the home", lambda: replace(SPEC, mounts=(Mount("/x", "/home"),)), "the tool's home"),
    (
        "a mount into a kept home",
        lambda: replace(SPEC, home="/srv/h", mounts=(Mount("/x", "/home/tool/.x"),)),
        "into a kept home",
    ),
    ("a mount over /tmp", lambda: replace(SPEC, mounts=(Mount("/x", "/tmp"),)), "belongs to"),
]


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_would_open_the_sandbox_is_refused_with_the_fix(make: Callable[[], SandboxSpec], message: str) -> None:
    with pytest.raises(SandboxInputError, match=message):
        make()


def test_the_holder_has_no_network_no_environment_and_no_mount() -> None:
    container = holder_container(HolderSpec(name="cloned_slot_0a1b2c3d", image="h", seccomp="{}"))
    host = container["HostConfig"]
    assert (host["NetworkMode"], host["Mounts"], host["Dns"]) == ("none", [], ["127.0.0.1"])
    assert container["Env"] == []
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]


def test_a_handing_holder_sees_its_own_socket_directory_only() -> None:
    spec = HolderSpec(name="cloned_slot_0a1b2c3d", image="h", seccomp="{}", socket_dir="/run/x")
    container = holder_container(spec)
    assert container["Cmd"] == ["hand", "/run/cloned/holder.sock"]
    assert [(m["Source"], m["ReadOnly"]) for m in container["HostConfig"]["Mounts"]] == [("/run/x", True)]


PROFILE: dict[str, Any] = json.loads(share_path("sandbox", "seccomp.json").read_text(encoding="utf-8"))


def _names(action: str) -> set[str]:
    return {name for rule in PROFILE["syscalls"] if rule["action"] == action for name in rule["names"]}


def test_the_profile_is_what_the_script_writes() -> None:
    source: dict[str, Any] = {"__name__": "seccomp"}
    exec(share_path("sandbox", "seccomp.py").read_text(encoding="utf-8"), source)
    assert source["profile"]() == PROFILE


@pytest.mark.parametrize(
    "call",
    ["socketcall", "io_uring_setup", "io_uring_enter", "io_uring_register", "ptrace", "bpf", "mount", "unshare",
     "setns", "keyctl", "userfaultfd", "perf_event_open", "open_by_handle_at", "kexec_load", "init_module",
     "pidfd_getfd",
     "process_vm_readv", "personality", "chroot", "pivot_root", "reboot", "swapon", "vmsplice", "fsopen"],
)  # fmt: skip
def test_the_profile_leaves_out(call: str) -> None:
    assert call not in _names("SCMP_ACT_ALLOW")


def test_the_profile_denies_by_default_and_has_no_32_bit_architecture() -> None:
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    assert all(entry["subArchitectures"] == [] for entry in PROFILE["archMap"])


def test_only_four_socket_families_are_allowed() -> None:
    rules = [rule for rule in PROFILE["syscalls"] if "socket" in rule["names"]]
    assert sorted(rule["args"][0]["value"] for rule in rules) == [1, 2, 10, 16]
    assert all(rule["args"][0]["op"] == "SCMP_CMP_EQ" for rule in rules)


def test_sizes() -> None:
    assert parse_memory("512m") == 512 * 1024**2
    assert parse_memory("2g") == 2 * 1024**3
    assert parse_memory("2GB") == 2 * 10**9
    for text in ("1m", "0", "-5m", "x", ""):
        with pytest.raises(SandboxInputError, match="memory"):
            parse_memory(text)
