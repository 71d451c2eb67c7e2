"""The checks of `doctor` that concern sandboxes. Without an engine there is one line: the proxy works without."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cloned_proxy.cli.commands.doctor.checks import Check
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.docker.engine_answers import EngineFacts
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE, check_current
from cloned_proxy.runner.images.node_version import FIRST_WITH_PROXY, node_version
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.llm.gpu import GpuHost, look
from cloned_proxy.runner.namespaces.names import AUTO, LOOPBACK, OFF, plan_names
from cloned_proxy.runner.namespaces.netns import may_enter
from cloned_proxy.runner.values.errors import SandboxError

_RECOMMENDED: Final = (24, 0)
_OLDEST: Final = (20, 10)
_ISOLATED_GATEWAY: Final = (28, 0)


def engine_checks(images: Iterable[str] = (), name_addresses: str = AUTO) -> list[Check]:
    """Each looks at one thing, changes nothing, and says what to do.

    `images` are those that the settings name beside our own, `name_addresses` is the setting of that name.
    """
    try:
        engine = Engine.connect()
    except SandboxError as error:
        where, _, fix = str(error).partition(": ")
        return [Check("engine", "warn", f"{where}; sandboxes need one", fix)]
    with contextlib.closing(engine):
        try:
            facts = engine.facts()
        except SandboxError as error:
            return [Check("engine", "fail", str(error), "restart the engine")]
        return [
            _version(facts),
            _storage(facts),
            _seccomp(facts),
            _user_namespaces(facts),
            _variant(facts),
            _names(facts, name_addresses),
            *_runtimes(facts),
            gpu_check(facts, look()),
            *_images(engine),
            *_node(engine, (PYTHON_IMAGE, *images)),
        ]


def _version(facts: EngineFacts) -> Check:
    text = f"{facts.name} {facts.version}, API {facts.api}, cgroup {facts.cgroup}"
    if facts.name == "Podman":
        return Check("engine", "ok", f"{text}; sealed slots work with rootful Podman")
    if facts.release < _OLDEST:
        return Check("engine", "fail", f"{text}: older than 20.10", "upgrade the engine to 24 or newer")
    if facts.release < _RECOMMENDED:
        weaker = (
            "sealed slots (the default) are as strong as ever; named networks are weaker: an internal bridge keeps "
            "a default route and leaks DNS and IPv6, and the engine's own seccomp profile lets io_uring through"
        )
        return Check("engine", "warn", f"{text}: {weaker}", "upgrade the engine to 24 or newer before using --network")
    if facts.release < _ISOLATED_GATEWAY:
        return Check("engine", "ok", f"{text}; named networks: gateway_mode isolated needs 28")
    return Check("engine", "ok", text)


def _storage(facts: EngineFacts) -> Check:
    if facts.storage in ("vfs", "devicemapper", "aufs"):
        return Check("storage", "warn", f"{facts.storage}: slow, or no longer supported", "use overlay2")
    return Check("storage", "ok", facts.storage)


def _seccomp(facts: EngineFacts) -> Check:
    if any("seccomp" in option for option in facts.security):
        return Check("seccomp", "ok", "the engine filters system calls; tools get the project's own profile")
    fix = "use a kernel and an engine with seccomp: without it AF_VSOCK and io_uring lead out of a sandbox"
    return Check("seccomp", "fail", "the engine does not filter system calls", fix)


_NOT_YOU: Final = "`exec --project rw` and `--user me` are refused: no tool could have your user id"


def _user_namespaces(facts: EngineFacts) -> Check:
    if facts.rootless:
        return Check("user ns", "ok", f"rootless engine: root in a container is nobody here; {_NOT_YOU}")
    if any("userns" in option for option in facts.security):
        return Check("user ns", "ok", f"remapped: root in a container is nobody here; {_NOT_YOU}")
    fix = "optional: `userns-remap` in daemon.json; tools run as 65532 without capabilities either way; "
    fix += "`exec --project rw` needs an engine without it"
    return Check("user ns", "warn", "containers share the host's user ids", fix)


def _variant(facts: EngineFacts) -> Check:
    if facts.rootless:
        return Check("slots", "ok", "handing holder (the engine is rootless: its namespaces cannot be entered)")
    if may_enter():
        return Check("slots", "ok", "listeners inside the namespace (CAP_SYS_ADMIN and CAP_SYS_PTRACE are there)")
    return Check("slots", "ok", f"handing holder (user {os.geteuid()} lacks CAP_SYS_ADMIN or CAP_SYS_PTRACE)")


def _names(facts: EngineFacts, setting: str) -> Check:
    """Whether programs that know no proxy work in a slot, and at which ports."""
    enters = may_enter() and not facts.rootless
    try:
        plan = plan_names(setting, enters=enters)
    except SandboxError as error:
        return Check("names", "fail", str(error).partition("; ")[0], str(error).partition("; ")[2])
    if plan is None and setting == OFF:
        return Check("names", "ok", "off: programs in a slot have to know the proxy")
    if plan is None:
        detail = "off without CAP_NET_ADMIN: programs in a slot have to know the proxy"
        fix = f"optional: `sandbox: {{name_addresses: {LOOPBACK}}}`; some programs refuse local addresses"
        return Check("names", "ok", detail, fix)
    if plan.steered:
        return Check("names", "ok", f"programs that know no proxy dial {plan.network}, every port (sk_lookup)")
    why = "bpf(2) is refused here, or Linux is older than 5.9" if enters else "the namespaces are not entered"
    ports = f"80, 443 and the ports of rules, {plan.spares} in all ({why})"
    return Check("names", "ok", f"programs that know no proxy dial {plan.network}, ports {ports}")


def _runtimes(facts: EngineFacts) -> Iterator[Check]:
    if "runsc" in facts.runtimes:
        detail = "gVisor (runsc) is there; the listener of a slot cannot be reached from its own network stack"
        yield Check("gvisor", "warn", detail, "keep runc as the engine's default runtime: tools run by the default one")
    if Path("/run/podman/podman.sock").exists() and facts.name != "Podman":
        yield Check("podman", "ok", "its socket is there; DOCKER_HOST=unix:///run/podman/podman.sock uses it")


def gpu_check(facts: EngineFacts, host: GpuHost) -> Check:
    """What there is for `llm up --gpus`; a host without a GPU is as good as any."""
    toolkit = host.toolkit or "nvidia" in facts.runtimes
    if not host.nodes:
        return Check("gpu", "ok", "none here: /dev/nvidiactl, /dev/nvidia0 and /dev/nvidia-uvm are not all there")
    ways = "`llm up --gpus all` or `--gpus devices`" if toolkit else "`llm up --gpus devices` (no NVIDIA toolkit)"
    count = len(host.nodes) - 2
    return Check("gpu", "ok", f"{count}, by {ways}; driver libraries: {len(host.libraries)}")


def _images(engine: Engine) -> Iterator[Check]:
    for name in (PYTHON_IMAGE, HOLDER_IMAGE):
        try:
            check_current(engine, name)
        except SandboxError as error:
            yield Check("image", "warn", str(error).partition(": `")[0], "cloned-proxy image build")
        else:
            yield Check("image", "ok", name)


def _node(engine: Engine, images: Iterable[str]) -> Iterator[Check]:
    for name in dict.fromkeys(images):
        version = node_version(engine, name)
        if version is None:
            continue
        if int(version.partition(".")[0]) >= FIRST_WITH_PROXY:
            yield Check("node", "ok", f"{version} in {name}")
            continue
        detail = f"{version} in {name}: its fetch leaves the proxy out and finds no way"
        fix = f"name an image with Node {FIRST_WITH_PROXY} or newer, or give the program undici's ProxyAgent"
        yield Check("node", "warn", detail, fix)
