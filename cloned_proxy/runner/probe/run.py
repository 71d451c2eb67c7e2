"""Runs the probe: in a tool's container as it really is, and, as a control, in one that is open on purpose."""

from __future__ import annotations

import base64
import json
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.docker.stream import Attached
from cloned_proxy.runner.files.files import read_scratch
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.namespaces.names import LOOPBACK
from cloned_proxy.runner.probe.canary import Canaries, canaries, host_addresses
from cloned_proxy.runner.probe.plan import DENIED_NAME, OTHER_TOOL, PROBE_TOOL, Attempt, Targets, plan
from cloned_proxy.runner.probe.report import Line, ProbeReport, Result, judge_controls, judge_sealed
from cloned_proxy.runner.runs.execution import Collected, Outcome
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.owner import owner_id
from cloned_proxy.runner.slots.standby import proxy_for
from cloned_proxy.runner.values.errors import SandboxError, ToolFailedError
from cloned_proxy.runner.values.spec import OWNER_LABEL, TOOL_LABEL
from cloned_proxy.store.workspaces.keys import load_or_create_key

_COMMAND: Final = ("python3", "/opt/cloned/probe.py")
_TIMEOUT: Final = 30.0
_MAX_OUTPUT: Final = 1024 * 1024
_CREDENTIAL_SECONDS: Final = 600.0
_WITH_NAMES: Final = f"sandbox: {{name_addresses: {LOOPBACK}}}\n"
_LINKS: Final = ("link-1", "link-2")

type Seen = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    enter_namespaces: bool | None = None
    controls: bool = True


def run_probe(say: Callable[[str], None], options: ProbeOptions | None = None) -> ProbeReport:
    """Probes a sandbox under a proxy of its own with a policy of its own, so that every outcome is known beforehand.

    Nothing of the user's workspace is touched; `say` hears which stage begins. Raises SandboxError when the probe
    cannot be run at all.
    """
    options = options or ProbeOptions()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cloned-probe-") as directory:
        workspace = Path(directory) / "project" / ".cloned"
        workspace.mkdir(mode=0o700, parents=True)
        Path(directory, "project").chmod(0o755)
        with canaries(Path(directory) / "engine") as birds:
            (workspace / "policy.yaml").write_text(_policy(birds), encoding="utf-8")
            if options.enter_namespaces is False:
                # Off by default in that variant; what the probe leaves out nobody has tried.
                (workspace / "config.yaml").write_text(_WITH_NAMES, encoding="utf-8")
            targets = _targets(birds, load_or_create_key(workspace / "identity.key"))
            attempts = plan(targets)
            engine = Engine.connect()
            try:
                say("starting a proxy of its own")
                with proxy_for(workspace, lambda _message: None, policy=workspace / "policy.yaml"):
                    say(f"{len(attempts)} attempts from a sealed container")
                    sealed = _sealed(engine, workspace, attempts, options)
                lines = (*sealed, _witness(birds))
                if options.controls:
                    say("the same attempts from a container that is open on purpose")
                controls = _open(engine, attempts, birds) if options.controls else ()
            finally:
                engine.close()
    return ProbeReport(lines, controls, time.monotonic() - began)


def _policy(birds: Canaries) -> str:
    return (
        "version: 1\n"
        "anonymous: deny\n"
        "tools:\n"
        f"  {PROBE_TOOL}:\n"
        "    allow:\n"
        f"      - {{host: localhost, ports: [{birds.raw.port}], addresses: [private], protocols: [tcp]}}\n"
        f"      - {{host: localhost, ports: [{birds.tls.port}], addresses: [private]}}\n"
        f"  {OTHER_TOOL}:\n"
        f"    allow: [{{host: 127.0.0.1, ports: [{birds.everywhere.port}], protocols: [tcp]}}]\n"
    )


def _targets(birds: Canaries, key: bytes) -> Targets:
    token = mint_token(key, Claims(OTHER_TOOL, secrets.token_hex(4), time.time() + _CREDENTIAL_SECONDS))
    return Targets(
        host_addresses=host_addresses(),
        tcp=birds.everywhere.port,
        udp=birds.datagram.port,
        abstract=birds.abstract_name,
        tls=birds.tls.port,
        raw=birds.raw.port,
        forged=base64.b64encode(f"{OTHER_TOOL}:{token}".encode()).decode(),
        forged_token=token,
    )


def _sealed(engine: Engine, workspace: Path, attempts: list[Attempt], options: ProbeOptions) -> tuple[Line, ...]:
    collected = Collected(_MAX_OUTPUT)
    followed: dict[str, str] = {}

    def read_links(scratch: Path, _outcome: Outcome) -> None:
        for number, name in enumerate(_LINKS, start=1):
            try:
                read_scratch(scratch, name, limit=_MAX_OUTPUT)
                followed[f"scratch-{number}"] = "the host followed the link"
            except ToolFailedError:
                pass  # what must happen

    with DockerContainerRunner(
        workspace=workspace, engine=engine, spare_slots=0, enter_namespaces=options.enter_namespaces
    ) as runner:
        program = ToolProgram(PYTHON_IMAGE, _COMMAND)
        job = Job(tool=PROBE_TOOL, program=program, timeout=_TIMEOUT, keep=read_links)
        runner.run(job, feed=_feed(attempts), output=collected)
    seen = _read(collected)
    for name, detail in followed.items():
        seen[name] = {**seen.get(name, {"seconds": 0.0}), "outcome": "open", "detail": detail}
    return judge_sealed(attempts, seen)


def _witness(birds: Canaries) -> Line:
    """The canaries' own word, behind everything the probe says of itself."""
    visits = birds.everywhere.visits + birds.datagram.visits + birds.abstract.visits + birds.engine.visits
    visits += DENIED_NAME.encode() in birds.tls.heard  # the ClientHello that must not have been passed on
    return Line(
        id="witness",
        group="witness",
        what="the canaries on this host saw nobody",
        expected="blocked",
        observed="open" if visits else "blocked",
        detail=f"{visits} visits",
        seconds=0.0,
        result=Result.LEAK if visits else Result.OK,
    )


def _open(engine: Engine, attempts: list[Attempt], birds: Canaries) -> tuple[Line, ...]:
    """The same program where the ways out are open: what it does not see there, it cannot see anywhere."""
    controls = [attempt for attempt in attempts if attempt.control]
    collected = Collected(_MAX_OUTPUT)
    config = unsafe_open_container(owner_id(), str(birds.engine_directory))
    with engine.container(f"cloned_tool_{secrets.token_hex(4)}", config) as container:
        stream = engine.attach(container)
        try:
            engine.start(container)
            _feed(controls)(stream)
            for kind, piece in stream.frames(time.monotonic() + _TIMEOUT):
                collected(kind, piece)
        finally:
            stream.close()
    return judge_controls(controls, _read(collected))


def unsafe_open_container(owner: str, engine_directory: str) -> dict[str, Any]:
    """On the host's network, without a filter, with raw sockets: runs the probe's own program and nothing else."""
    bind = {"Type": "bind", "Source": engine_directory, "Target": "/mnt/engine", "ReadOnly": True}
    return {
        "Image": PYTHON_IMAGE,
        "Entrypoint": [],
        "Cmd": list(_COMMAND),
        "User": "0:0",
        "Labels": {TOOL_LABEL: f"{PROBE_TOOL}-control", OWNER_LABEL: owner},
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            "NetworkMode": "host",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": ["NET_RAW"],
            "SecurityOpt": ["seccomp=unconfined"],
            "PidsLimit": 256,
            "Memory": 512 * 1024 * 1024,
            "Mounts": [bind],
            "Init": True,
        },
    }


def _feed(attempts: Iterable[Attempt]) -> Callable[[Attached], None]:
    tasks = [{"id": attempt.id, "kind": attempt.kind, "with": attempt.arguments} for attempt in attempts]
    line = json.dumps(tasks).encode()

    def feed(stream: Attached) -> None:
        stream.write(line)
        stream.end_input()

    return feed


def _read(collected: Collected) -> dict[str, Mapping[str, Any]]:
    try:
        return {str(entry["id"]): entry for entry in json.loads(bytes(collected.stdout))}
    except (ValueError, TypeError, KeyError) as error:
        said = bytes(collected.stderr)[-300:].decode(errors="replace").strip()
        raise SandboxError(f"the probe's program gave no report: {said or 'it said nothing'}") from error
