"""What `llm` does: the model's container, the relay process, and the words about them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.cli.show.errors import FAILED, CommandError, say
from cloned_proxy.cli.show.output import put, put_json
from cloned_proxy.cli.terminal.interruption import interruptible
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.llm.health import Health, HealthReport, ask_health, closed_with_key, open_without_key
from cloned_proxy.runner.llm.model import (
    check_may_start,
    check_owner,
    check_running,
    has_ended,
    model_files,
    owner_of,
    start_model,
    start_relay,
    state_of,
    stop_model,
)
from cloned_proxy.runner.llm.plan import ModelPlan, plan_model
from cloned_proxy.runner.llm.state import CONTAINER, PORT, LlmState, forget_state, read_state, write_state
from cloned_proxy.runner.values.errors import SandboxError, SandboxInputError
from cloned_proxy.runner.values.spec import DEFAULT_USER
from cloned_proxy.store.workspaces.workspace import Workspace

if TYPE_CHECKING:
    from cloned_proxy.store.settings.config import LlmSettings

BASE: Final = f"http://127.0.0.1:{PORT}/v1"
_STOP_SECONDS: Final = 5.0
_SHORTEST_ASK: Final = 0.01
_LONGEST_ASK: Final = 0.5
_TELL_SECONDS: Final = 5.0
_HOW_TO_LOOK: Final = f"`cloned-proxy llm status`, `docker logs {CONTAINER}`; `cloned-proxy llm down` ends it"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """The words of `llm up`; None: what config.yaml says."""

    workspace: Path | None = None
    models: Path | None = None
    wait: float = 120.0
    engine: str | None = None
    image: str | None = None
    gpus: str | None = None
    health: str | None = None


def bring_up(options: UpOptions) -> None:
    """Raises CommandError. Then nothing runs, unless the model just was not ready in time: it goes on loading.

    What is left of a model of this workspace that ended is replaced.
    """
    check_may_start()
    workspace = Workspace.find(options.workspace)
    workspace.create()
    plan = _plan(options, workspace)
    with interruptible(), contextlib.closing(Engine.connect()) as engine:
        if check_owner(engine, workspace.root):
            if not has_ended(engine):
                raise SandboxInputError(f"{CONTAINER} is there already: `cloned-proxy llm status`, or `llm down` first")
            _end(engine, workspace.root, read_state(workspace.root))
        with _listen() as listening:
            namespace = start_model(engine, plan, workspace.root)
            try:
                relay = start_relay(listening.fileno(), namespace, plan.port)
            except SandboxError:
                try:
                    check_running(engine, plan)  # when it has ended already, it says why
                finally:
                    stop_model(engine, workspace.root, None)
                raise
            finally:
                namespace.close()
        state = state_of(plan, relay.pid)
        write_state(workspace.root, state)
        try:
            late = _wait_ready(engine, plan, options.wait)
            if late is None and plan.key:
                _prove_key(plan)
        except BaseException:
            _end(engine, workspace.root, state)
            raise
    if late is not None:
        raise CommandError(
            f"the model was not ready within {options.wait:g} s ({late.said}); it goes on loading: {_HOW_TO_LOOK}",
            code=FAILED,
        )
    write_state(workspace.root, state_of(plan, relay.pid, keyed=bool(plan.key)))
    _tell(plan)


def take_down(directory: Path | None) -> None:
    """Removes what `up` made. Raises CommandError, also for another workspace's model."""
    root = Workspace.find(directory).root
    with contextlib.closing(Engine.connect()) as engine:
        if not _end(engine, root, read_state(root)):
            say("there was no model to stop")


def show_status(directory: Path | None, *, as_json: bool) -> int:
    """The exit code: 1 when the model does not answer."""
    root = Workspace.find(directory).root
    with contextlib.closing(Engine.connect()) as engine:
        owner = owner_of(engine)
        found = engine.state(CONTAINER) if owner is not None else None
    state = read_state(root)
    relay = state is not None and state.relay_alive
    key = os.environ.get("LLM_API_KEY", "")
    report = ask_health(PORT, state.health, key) if state is not None and relay else None
    healthy = report is not None and report.health is Health.READY
    shown: dict[str, Any] = {
        "container": found is not None and found.running,
        "relay": relay,
        "healthy": healthy,
        "base": BASE,
        "engine": state.engine if state is not None else None,
        "said": report.said if report is not None else None,
        "key": state is not None and state.keyed,
        "out_of_memory": found is not None and found.oom_killed,
        "workspace": str(owner) if owner is not None and owner != Path() else None,
    }
    if as_json:
        put_json(shown)
    else:
        _put_status(shown, root, ended=found is not None and not found.running)
    return 0 if healthy else FAILED


def _put_status(shown: dict[str, Any], root: Path, *, ended: bool) -> None:
    memory = ", out of memory: raise `llm: {memory: …}` in config.yaml" if shown["out_of_memory"] else ""
    container = "running" if shown["container"] else f"ended{memory}" if ended else "none"
    put(f"container {container}" + (f" ({shown['engine']})" if shown["engine"] else ""))
    foreign = shown["workspace"] not in (None, str(root))
    if foreign:
        put(f"          of the workspace {shown['workspace']}")
    put(f"relay     {'running' if shown['relay'] else 'none'}")
    if shown["healthy"]:
        put(f"health    ok, {BASE}" + (", callers need the key" if shown["key"] else ""))
    elif shown["relay"] and shown["container"]:
        put(f"health    not ready: {shown['said']}; `docker logs {CONTAINER}`")
    elif foreign:
        # `llm up` would be refused here while that one exists, running or ended.
        end = f"`cloned-proxy llm down --workspace {shown['workspace']}`"
        put(in_this_shell(f"health    no model of this workspace; {end} ends the other one"))
    else:
        put(in_this_shell("health    no answer; start it with `cloned-proxy llm up`"))


def _plan(options: UpOptions, workspace: Workspace) -> ModelPlan:
    settings = _settings(options, workspace)
    user, group = (os.environ.get(f"LOCALAI_{name}") or DEFAULT_USER.partition(":")[0] for name in ("UID", "GID"))
    image = options.image or (os.environ.get("LOCALAI_IMAGE") if settings.engine == "localai" else None)
    models = (options.models or workspace.root.parent / "models").absolute()
    return plan_model(
        settings,
        models,
        image=image,
        user=f"{user}:{group}",
        key=os.environ.get("LLM_API_KEY", ""),
        processors=sorted(os.sched_getaffinity(0)),
        files=model_files(models),
    )


def _settings(options: UpOptions, workspace: Workspace) -> LlmSettings:
    """The settings of config.yaml, in which the options of the command replace what they name."""
    given = {name: getattr(options, name) for name in ("engine", "health") if getattr(options, name) is not None}
    if options.gpus is not None:
        given["gpus"] = int(options.gpus) if options.gpus.isdigit() else options.gpus
    if not given:
        return workspace.llm_settings()
    from cloned_proxy.store.settings.config import LlmSettings

    kept = workspace.config().llm
    try:
        settings = LlmSettings.model_validate({**kept.model_dump(), **given})
    except ValueError as error:
        words = " ".join(f"--{name} {value}" for name, value in given.items())
        raise CommandError(f"llm up {words}: write --gpus N, all or devices, and --health /PATH") from error
    if settings.engine != kept.engine:  # these, as the file has them, are the other engine's
        others: dict[str, Any] = {"image": None, "command": None, "env": {}, "port": PORT, "health": options.health}
        settings = settings.model_copy(update=others)
    return settings


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", PORT))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise SandboxError(
            f"127.0.0.1:{PORT} is taken ({error.strerror}): stop what listens there, perhaps the Compose variant"
        ) from error
    return sock


def _wait_ready(engine: Engine, plan: ModelPlan, seconds: float) -> HealthReport | None:
    """None once the model is ready; what it said last when it was not in time. Raises SandboxError when it ended."""
    began = told = time.monotonic()
    while (report := ask_health(PORT, plan.health, plan.key)).health is not Health.READY:
        check_running(engine, plan)
        now = time.monotonic()
        if now - began > seconds:
            return report
        if now - told >= _TELL_SECONDS:
            told = now
            say(f"{now - began:.0f} s: {report.health.value} ({report.said})")
        # A fiftieth of the time so far: asking makes nobody wait noticeably longer, and disturbs no long loading.
        time.sleep(min(_LONGEST_ASK, max(_SHORTEST_ASK, (now - began) / 50)))
    return None


def _prove_key(plan: ModelPlan) -> None:
    """Raises SandboxError unless callers without the key are refused, and those with it are not."""
    if (got := open_without_key(PORT)) is not None:
        raise SandboxError(
            f"LLM_API_KEY is set and {plan.engine.name} answers without it ({got}): not started, because it would look "
            "protected; unset it, or name the engine's own setting in `llm: {env: …}`"
        )
    if (got := closed_with_key(PORT, plan.key)) is not None:
        raise SandboxError(f"{plan.engine.name} refuses the key that it was given ({got}): look at its settings")


def _tell(plan: ModelPlan) -> None:
    sealed = "the model runs sealed with a key" if plan.key else "the model runs sealed"
    say(f"{sealed}; for a tool, allow it: cloned-proxy allow 127.0.0.1:{PORT} --tool TOOL")
    put(f"LLM_API_BASE={BASE}")


def _end(engine: Engine, root: Path, state: LlmState | None) -> bool:
    # First of all, and before anything is touched: it may be another workspace's.
    found = stop_model(engine, root, state)
    if state is not None and state.relay_alive:
        os.kill(state.relay_pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while state.relay_alive and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(state.relay_pid, os.WNOHANG)  # ours, when `up` itself gives up
            time.sleep(0.02)
    forget_state(root)
    return found
