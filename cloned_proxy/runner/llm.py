"""The local model, sealed: LocalAI in a slot of its own, reached through a relay on 127.0.0.1:8080 and by no other way.

Its container has no interface but loopback and no listener of the proxy: it can answer, and ask nobody.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.containers import bind_mount, hardening, holder_container
from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.environment import PROXY_URL, proxy_environment
from cloned_proxy.runner.errors import SandboxError, SandboxInputError, SlotError
from cloned_proxy.runner.images import HOLDER_IMAGE, check_current
from cloned_proxy.runner.netns import Namespace, may_enter, start_time
from cloned_proxy.runner.spec import DEFAULT_USER, MIB, HolderSpec, Limits
from cloned_proxy.share import share_path
from cloned_proxy.store.atomic import write_atomically

CONTAINER: Final = "cloned-localai"
IMAGE_VARIABLE: Final = "LOCALAI_IMAGE"
DEFAULT_IMAGE: Final = "localai/localai:latest"
PORT: Final = 8080
_STATE: Final = ("run", "llm.json")
_MEMORY: Final = 8192 * MIB
_CPUS: Final = 4.0


@dataclass(frozen=True, slots=True)
class LlmState:
    """What `up` made, for `down` and `status`: kept in the workspace."""

    container: str
    holder: str
    relay_pid: int
    relay_started: int

    @property
    def relay_alive(self) -> bool:
        try:
            return start_time(self.relay_pid) == self.relay_started
        except (OSError, ValueError, IndexError):
            return False


def read_state(workspace: Path) -> LlmState | None:
    """What `up` left, or None."""
    try:
        return LlmState(**json.loads(workspace.joinpath(*_STATE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise SandboxInputError(f"{workspace.joinpath(*_STATE)} is damaged: delete it, then `llm down`") from error


def write_state(workspace: Path, state: LlmState) -> None:
    """Keeps it for `down` and `status`."""
    path = workspace.joinpath(*_STATE)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(state)).encode())


def forget_state(workspace: Path) -> None:
    """After `down`."""
    workspace.joinpath(*_STATE).unlink(missing_ok=True)


def start_model(engine: Engine, models: Path, environ: Mapping[str, str]) -> tuple[str, Namespace]:
    """Starts holder and model; returns the holder's id and the namespace in which the model listens.

    Raises SandboxError; nothing is left behind then.
    """
    if not may_enter():
        raise SlotError(
            "a relay into the model's namespace takes CAP_SYS_ADMIN and CAP_SYS_PTRACE: run as root, or use "
            "compose/compose.local-llm.yaml"
        )
    if not models.is_dir():
        raise SandboxInputError(f"{models} does not exist: `mkdir -p {models}` and put a model there, or use --models")
    image = environ.get(IMAGE_VARIABLE) or DEFAULT_IMAGE
    engine.image(image)
    check_current(engine, HOLDER_IMAGE)
    seccomp = share_path("sandbox", "seccomp.json").read_text(encoding="utf-8")
    # No owner: it is meant to outlive this process, and `down` ends it.
    spec = HolderSpec(name=f"cloned_slot_{secrets.token_hex(4)}", image=HOLDER_IMAGE, seccomp=seccomp)
    holder = engine.create(spec.name, holder_container(spec))
    try:
        engine.start(holder)
        state = engine.state(holder)
        namespace = Namespace.of(state.id, state.pid)
        container = engine.create(CONTAINER, model_container(image, holder, models, seccomp, environ))
        try:
            engine.start(container)
        except SandboxError:
            engine.remove(container)
            namespace.close()
            raise
    except SandboxError:
        engine.remove(holder)
        raise
    return holder, namespace


def model_container(image: str, holder: str, models: Path, seccomp: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The body of the engine's create request for LocalAI. Pure."""
    user, group = (environ.get(f"LOCALAI_{name}") or DEFAULT_USER.partition(":")[0] for name in ("UID", "GID"))
    limits = Limits(cpus=min(_CPUS, float(os.cpu_count() or 1)), memory=_MEMORY, open_files=4096)
    env = proxy_environment(PROXY_URL) | {
        "LOCALAI_ADDRESS": f"127.0.0.1:{PORT}",
        "LOCALAI_MODELS_PATH": "/models",
        "LOCALAI_BACKENDS_PATH": "/models/backends",
        "LOCALAI_CONFIG_DIR": "/configuration",
        "LOCALAI_AUTOLOAD_GALLERIES": "false",
        "LOCALAI_AUTOLOAD_BACKEND_GALLERIES": "false",
        "LOCALAI_API_KEY": environ.get("LLM_API_KEY", ""),
        "HOME": "/tmp",  # noqa: S108  in the container
    }
    host = hardening(seccomp, limits)
    # Models are larger than any tool's result; the file system they lie on is read-only here anyway.
    host["Ulimits"] = [limit for limit in host["Ulimits"] if limit["Name"] != "fsize"]
    return {
        "Image": image,
        "User": f"{user}:{group}",
        "Env": [f"{name}={value}" for name, value in env.items()],
        "HostConfig": {
            **host,
            "NetworkMode": f"container:{holder}",
            "Init": True,
            "Tmpfs": {
                "/tmp": "rw,noexec,nosuid",  # noqa: S108  in the container
                "/configuration": "rw,noexec,nosuid,size=16m",
            },
            "Mounts": [bind_mount(str(models), "/models", read_only=True)],
        },
    }


def stop_model(engine: Engine, state: LlmState | None) -> bool:
    """Removes model and holder; whether there was anything."""
    found = state is not None or exists(engine)
    engine.remove(CONTAINER)
    if state is not None:
        engine.remove(state.holder)
    return found


def exists(engine: Engine) -> bool:
    """Whether the model's container is there, running or not."""
    return engine.find(CONTAINER) is not None
