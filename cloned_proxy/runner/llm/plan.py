"""From settings to the model's container, as values. Pure: whoever calls looks at the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.runner.docker.containers import HOSTNAME, NO_NAMES, bind_mount, hardening
from cloned_proxy.runner.llm.engines import (
    CACHE,
    ENGINES,
    MODELS,
    ModelEngine,
    cache_environment,
    engine_command,
    engine_environment,
)
from cloned_proxy.runner.llm.gpu import GpuHost, gpu_environment, gpu_host_config
from cloned_proxy.runner.values.environment import PROXY_URL, proxy_environment
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import (
    DEFAULT_USER,
    MIB,
    WORKSPACE_LABEL,
    SandboxLimits,
    check_env,
    parse_memory,
    workspace_mark,
)

if TYPE_CHECKING:
    from cloned_proxy.store.settings.config import LlmSettings

DIRECTORY_LABEL: Final = "cloned.directory"
"""The workspace whose model this is. Its path is in the mount of the models anyway."""
_LOOPBACK: Final = "localhost,127.0.0.1,::1"
_OPEN_FILES: Final = 4096
_TMPFS: Final = "rw,noexec,nosuid"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model server as it is going to run."""

    engine: ModelEngine
    image: str
    settings: LlmSettings
    models: Path
    user: str = DEFAULT_USER
    key: str = ""
    """What callers have to know; "" for none."""
    processors: tuple[int, ...]
    """The CPUs of this host on which it may run, at most as many as its quota."""
    cpus: float
    file: str | None = None
    """The one model file in the container, where the engine has to be told."""

    @property
    def port(self) -> int:
        return self.settings.port

    @property
    def health(self) -> tuple[str, ...]:
        return (self.settings.health,) if self.settings.health is not None else self.engine.health

    @property
    def shown(self) -> tuple[Path, ...]:
        """Directories of this machine that the model sees."""
        cache = _cache_setting(self) or ""
        return (self.models, Path(cache)) if cache.startswith("/") else (self.models,)

    @property
    def memory(self) -> int:
        """Bytes."""
        return parse_memory(self.settings.memory)

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


def plan_model(
    settings: LlmSettings,
    models: Path,
    *,
    image: str | None = None,
    user: str = DEFAULT_USER,
    key: str = "",
    processors: Sequence[int],
    files: Sequence[str] = (),
) -> ModelPlan:
    """What runs, from the settings and from what this machine has.

    `processors` are the CPUs of this host, `files` the names of the model files in `models`.
    Raises SandboxInputError with the setting to change.
    """
    engine = ENGINES[settings.engine]
    image = image or settings.image or engine.image
    if image is None:
        raise SandboxInputError(
            f"{engine.name} has no default image: name its server's, `llm up --image IMAGE` or `llm: {{image: IMAGE}}` "
            "in config.yaml"
        )
    if key and engine.key_variable is None:
        raise SandboxInputError(
            f"{engine.name} asks no caller for a key, so LLM_API_KEY would protect nothing: unset it, or use another "
            "engine"
        )
    check_env(settings.env)
    cpus = min(settings.cpus, float(len(processors)))
    return ModelPlan(
        engine=engine,
        image=image,
        settings=settings,
        models=models,
        user=user,
        key=key,
        # The last ones: interrupts and everybody else's work begin at the first.
        processors=tuple(sorted(processors)[-math.ceil(cpus) :]),
        cpus=cpus,
        file=_file(engine, settings, files),
    )


def model_container(plan: ModelPlan, *, workspace: Path, seccomp: str, gpu: GpuHost) -> dict[str, Any]:
    """The body of the engine's create request for the model's container."""
    limits = SandboxLimits(cpus=plan.cpus, memory=plan.memory, open_files=_OPEN_FILES)
    host = hardening(seccomp, limits)
    # Models are larger than any tool's result; the file system they lie on is read-only here anyway.
    host["Ulimits"] = [limit for limit in host["Ulimits"] if limit["Name"] != "fsize"]
    devices, libraries = gpu_host_config(plan.settings.gpus, plan.user, gpu)
    cache_tmpfs, cache_mounts = _cache(plan)
    shm = plan.settings.shm or plan.engine.shm
    command = plan.settings.command if plan.settings.command is not None else engine_command(plan.engine, plan.port)
    return {
        "Image": plan.image,
        **({"Cmd": command} if command else {}),
        "User": plan.user,
        "Hostname": HOSTNAME,
        "Env": [f"{name}={value}" for name, value in _environment(plan).items()],
        "Labels": {DIRECTORY_LABEL: str(workspace), WORKSPACE_LABEL: workspace_mark(workspace)},
        "HostConfig": {
            **host,
            **devices,
            **({"ShmSize": parse_memory(shm)} if shm is not None else {}),
            "CpusetCpus": ",".join(map(str, plan.processors)),
            "NetworkMode": "none",
            **NO_NAMES,
            "Init": True,
            "Tmpfs": {
                "/tmp": _TMPFS,  # noqa: S108  in the container
                **dict.fromkeys(plan.engine.tmpfs, f"{_TMPFS},size=16m"),
                **cache_tmpfs,
            },
            "Mounts": [bind_mount(str(plan.models), MODELS, read_only=True), *libraries, *cache_mounts],
        },
    }


def _environment(plan: ModelPlan) -> dict[str, str]:
    # Nothing listens at the proxy's address in there: what honours the variables is refused at once instead of waiting.
    # Loopback is exempt, because engines call themselves over their own port.
    env = proxy_environment(PROXY_URL) | {"NO_PROXY": _LOOPBACK, "no_proxy": _LOOPBACK}
    env |= engine_environment(plan.engine, port=plan.port, threads=plan.threads, key=plan.key, file=plan.file)
    if _cache_setting(plan) is not None:
        env |= cache_environment()
    return env | gpu_environment(plan.settings.gpus) | plan.settings.env


def _cache_setting(plan: ModelPlan) -> str | None:
    chosen = plan.settings.cache if plan.settings.cache is not None else plan.engine.cache
    return None if chosen == "none" else chosen


def _cache(plan: ModelPlan) -> tuple[dict[str, str], list[dict[str, Any]]]:
    chosen = _cache_setting(plan)
    if chosen is None:
        return {}, []
    if chosen.startswith("/"):
        return {}, [bind_mount(chosen, CACHE, read_only=True)]
    return {CACHE: f"rw,exec,nosuid,nodev,size={parse_memory(chosen) // MIB}m,mode=1777"}, []


def _file(engine: ModelEngine, settings: LlmSettings, files: Sequence[str]) -> str | None:
    if engine.file_variable is None or engine.file_variable in settings.env or settings.command is not None:
        return None
    if len(files) == 1:
        return f"{MODELS}/{files[0]}"
    found = f"{len(files)} .gguf files" if files else "no .gguf file"
    example = f'llm: {{env: {{{engine.file_variable}: "{MODELS}/{files[0] if files else "NAME.gguf"}"}}}}'
    raise SandboxInputError(f"{engine.name} serves one file and the models' directory has {found}: `{example}`")
