"""The local model, sealed: its server in a namespace of its own, reached through a relay on 127.0.0.1:8080 alone.

Its container has no interface but loopback and no listener of the proxy: it can answer, and ask nobody. No holder keeps
the namespace: nothing listens in it before the model does, and it may end with the model.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.llm.gpu import look
from cloned_proxy.runner.llm.plan import DIRECTORY_LABEL, ModelPlan, model_container
from cloned_proxy.runner.llm.state import CONTAINER, LlmState
from cloned_proxy.runner.namespaces.netns import Namespace, may_enter, start_time
from cloned_proxy.runner.project.masks import refuse_secrets
from cloned_proxy.runner.values.errors import EngineError, SandboxError, SandboxInputError, SlotError
from cloned_proxy.runner.values.spec import MIB
from cloned_proxy.share import share_path

_TOOLKIT_MISSING: Final = ("could not select device driver", "nvidia-container-cli", "unresolvable CDI devices")


def check_may_start() -> None:
    """Raises SlotError for a user who could start no relay to a model."""
    if not may_enter():
        raise SlotError(
            "a relay into the model's namespace takes CAP_SYS_ADMIN and CAP_SYS_PTRACE: run as root, or use "
            "compose/compose.local-llm.yaml"
        )


def start_model(engine: Engine, plan: ModelPlan, workspace: Path) -> Namespace:
    """Starts the model; returns the namespace in which it listens. Raises SandboxError; nothing is left then."""
    for directory in plan.shown:
        refuse_secrets(directory, workspace)
    engine.image(plan.image)
    seccomp = share_path("sandbox", "seccomp.json").read_text(encoding="utf-8")
    # No owner: it is meant to outlive this process, and `down` ends it.
    container = engine.create(CONTAINER, model_container(plan, workspace=workspace, seccomp=seccomp, gpu=look()))
    try:
        engine.start(container)
        state = engine.state(container)
        try:
            return Namespace.of(state.id, state.pid)
        except SlotError:
            check_running(engine, plan)
            raise
    except SandboxError as error:
        engine.remove(container)
        raise _explained(error) from error
    except BaseException:  # Ctrl-C: nobody knows of it yet
        engine.discard(container)
        raise


def check_running(engine: Engine, plan: ModelPlan) -> None:
    """Raises SandboxError with the reason when the model has ended."""
    state = engine.state(CONTAINER)
    if state.oom_killed:
        raise SandboxError(
            f"the model needs more than its {plan.memory // MIB} MiB and was killed: raise `llm: {{memory: …}}` in "
            "config.yaml"
        )
    if not state.running:
        raise SandboxError(f"the model ended with {state.exit_code}: {engine.last_words(CONTAINER)}")


def start_relay(listening: int, namespace: Namespace, port: int) -> subprocess.Popen[bytes]:
    """The process that carries bytes from the host's port into the namespace, until the model has ended.

    `port` is the model's, inside.
    """
    try:
        model = os.pidfd_open(namespace.pid)
    except OSError as error:
        raise SlotError(f"the model ended at once: `docker logs {CONTAINER}` of another start says why") from error
    try:
        descriptors = (listening, namespace.descriptor, model)
        numbers = ", ".join(map(str, (*descriptors, port)))
        return subprocess.Popen(  # noqa: S603  this program, with numbers of our own
            [sys.executable, "-P", "-c", f"from cloned_proxy.runner.llm.relay import main; main({numbers})"],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        os.close(model)


def state_of(plan: ModelPlan, relay: int, *, keyed: bool = False) -> LlmState:
    """What is kept for `down` and `status`."""
    return LlmState(CONTAINER, relay, start_time(relay), plan.engine.name, plan.health, keyed)


def owner_of(engine: Engine) -> Path | None:
    """The workspace whose model is there, running or not; None when there is none.

    A container of that name without our label is somebody's own, such as the Compose variant's: `Path()`.
    """
    if engine.find(CONTAINER) is None:
        return None
    labels = engine.inspect(CONTAINER)["Config"].get("Labels") or {}
    return Path(labels.get(DIRECTORY_LABEL, ""))


def check_owner(engine: Engine, workspace: Path) -> bool:
    """Whether this workspace's model is there. Raises SandboxError for one that is another's, naming whose."""
    owner = owner_of(engine)
    if owner is None or owner == workspace:
        return owner is not None
    if owner == Path():
        raise SandboxError(f"{CONTAINER} was not made by `llm up`: stop it where it was started (Compose: `down`)")
    raise SandboxError(
        f"the model that runs is of another workspace, {owner}: `cloned-proxy llm down --workspace {owner}`"
    )


def has_ended(engine: Engine) -> bool:
    """Whether the model that is there ran and runs no more; one that is just being made has not."""
    return engine.inspect(CONTAINER)["State"]["Status"] in ("exited", "dead")


def stop_model(engine: Engine, workspace: Path, state: LlmState | None) -> bool:
    """Removes this workspace's model; whether there was anything. Raises SandboxError."""
    there = check_owner(engine, workspace)
    if there:
        engine.remove(CONTAINER)
    return there or state is not None


def model_files(directory: Path) -> list[str]:
    """Names of the model files in `directory`. Raises SandboxInputError when there is no such directory."""
    if not directory.is_dir():
        raise SandboxInputError(
            f"{directory} does not exist: `mkdir -p {directory}` and put a model there, or use --models"
        )
    return sorted(path.name for path in directory.glob("*.gguf") if path.is_file())


def _explained(error: SandboxError) -> SandboxError:
    if any(sign in str(error) for sign in _TOOLKIT_MISSING):
        return EngineError(
            f"{error}; `--gpus N` and `--gpus all` need NVIDIA's container toolkit: install it, or use `--gpus devices`"
        )
    return error
