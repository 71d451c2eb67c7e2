"""The model servers that `llm up` knows, as one table: how each is told its address, models, key and threads.

A preset is a default, never a limit: `llm:` in config.yaml replaces any part of it. LocalAI's variables are those of
its documentation, llama.cpp's those of `llama-server --help`, Ollama's and vLLM's those of their documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

MODELS: Final = "/models"
CACHE: Final = "/cache"
USUAL_HEALTH: Final = ("/readyz", "/health", "/v1/models")
"""Asked in this order: LocalAI has the first, llama.cpp and vLLM the second, whatever is OpenAI-compatible the last."""

_COMMON: Final = MappingProxyType({"HOME": "/tmp", "USER": "tool"})  # noqa: S108  in the container
"""`USER`: a uid without a passwd entry stops getpass.getuser(), and PyTorch's compiler with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEngine:
    """What differs between one model server and the next."""

    name: str
    image: str | None
    """None: its project publishes no image under a name that every engine resolves."""
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """`{address}`, `{host}` and `{port}` stand for where it has to listen."""
    health: tuple[str, ...] = USUAL_HEALTH
    key_variable: str | None = None
    """None: the server cannot ask for a key."""
    threads_variable: str | None = None
    """A variable for the number of threads beside `OMP_NUM_THREADS`, which every engine gets."""
    file_variable: str | None = None
    """Takes the path of the one model file; None: the server looks through the directory itself."""
    tmpfs: tuple[str, ...] = ()
    """Directories besides /tmp in which it has to write."""
    shm: str | None = None
    cache: str | None = None
    metrics: str | None = None
    """Path of its Prometheus metrics."""


ENGINES: Final[Mapping[str, ModelEngine]] = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            ModelEngine(
                name="localai",
                image="localai/localai:latest",
                env={
                    "LOCALAI_ADDRESS": "{address}",
                    "LOCALAI_MODELS_PATH": MODELS,
                    "LOCALAI_BACKENDS_PATH": f"{MODELS}/backends",
                    "LOCALAI_CONFIG_DIR": "/configuration",
                    "LOCALAI_AUTOLOAD_GALLERIES": "false",
                    "LOCALAI_AUTOLOAD_BACKEND_GALLERIES": "false",
                },
                key_variable="LOCALAI_API_KEY",
                threads_variable="LOCALAI_THREADS",
                tmpfs=("/configuration",),
                metrics="/metrics",
            ),
            ModelEngine(
                name="llama.cpp",
                image=None,
                env={"LLAMA_ARG_HOST": "{host}", "LLAMA_ARG_PORT": "{port}", "LLAMA_ARG_ENDPOINT_METRICS": "1"},
                health=("/health",),
                key_variable="LLAMA_API_KEY",
                threads_variable="LLAMA_ARG_THREADS",
                file_variable="LLAMA_ARG_MODEL",
                metrics="/metrics",
            ),
            ModelEngine(
                name="ollama",
                image="ollama/ollama:latest",
                env={"OLLAMA_HOST": "{address}", "OLLAMA_MODELS": MODELS, "OLLAMA_NOPRUNE": "1"},
                health=("/",),
            ),
            ModelEngine(
                name="vllm",
                image="vllm/vllm-openai:latest",
                command=("--host", "{host}", "--port", "{port}", "--model", MODELS),
                env={
                    "HF_HUB_OFFLINE": "1",
                    "VLLM_NO_USAGE_STATS": "1",
                    "VLLM_HOST_IP": "{host}",
                    "HF_HOME": f"{CACHE}/huggingface",
                    "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
                },
                health=("/health",),
                key_variable="VLLM_API_KEY",
                shm="1g",
                cache="4g",
                metrics="/metrics",
            ),
        )
    }
)


def engine_environment(engine: ModelEngine, *, port: int, threads: int, key: str, file: str | None) -> dict[str, str]:
    """The variables by which an engine learns where to listen, what to serve and how many threads to start. Pure.

    Most engines count the CPUs of the machine, not those of their quota: told nothing, they run two to twenty times
    slower than they could.
    """
    env = {**_COMMON, **{name: value.format(**_places(port)) for name, value in engine.env.items()}}
    env["OMP_NUM_THREADS"] = str(threads)
    if engine.threads_variable is not None:
        env[engine.threads_variable] = str(threads)
    if engine.key_variable is not None and key:
        env[engine.key_variable] = key
    if engine.file_variable is not None and file is not None:
        env[engine.file_variable] = file
    return env


def engine_command(engine: ModelEngine, port: int) -> list[str]:
    """The words behind the image's entrypoint; none: the image's own."""
    return [word.format(**_places(port)) for word in engine.command]


def cache_environment() -> dict[str, str]:
    """Where compilers of GPU code put the programs that they build: /tmp runs none."""
    return {
        "TRITON_CACHE_DIR": f"{CACHE}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/inductor",
        "CUDA_CACHE_PATH": f"{CACHE}/cuda",
        "CUPY_CACHE_DIR": f"{CACHE}/cupy",
        "XDG_CACHE_HOME": CACHE,
        "TMPDIR": "/tmp",  # noqa: S108  in the container
    }


def _places(port: int) -> dict[str, str]:
    return {"host": "127.0.0.1", "port": str(port), "address": f"127.0.0.1:{port}"}
