"""What the engine is asked for, for each kind of model server and with a GPU, as values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.cli.commands.doctor.engine_checks import gpu_check
from cloned_proxy.runner.docker.engine_answers import EngineFacts
from cloned_proxy.runner.llm.gpu import GpuHost, look
from cloned_proxy.runner.llm.plan import model_container, plan_model
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.store.settings.config import LlmSettings

NONE = GpuHost((), (), toolkit=False)
NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia-uvm")
GPU = GpuHost(NODES, (("libcuda.so.1", "/usr/lib/libcuda.so.580"),), toolkit=True)


def container(
    gpu: GpuHost = NONE, *, processors: int = 8, user: str = "65532:65532", **settings: Any
) -> dict[str, Any]:
    plan = plan_model(
        LlmSettings(**settings), Path("/m"), image="image", user=user, processors=range(processors), files=["a.gguf"]
    )
    return model_container(plan, workspace=Path("/w/.cloned"), seccomp="{}", gpu=gpu)


def environment(made: dict[str, Any]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in made["Env"])


def test_the_seeds_knobs_are_the_defaults() -> None:
    made = container(user="1000:1000")
    host = made["HostConfig"]
    assert made["User"] == "1000:1000"
    assert (host["NetworkMode"], host["Dns"]) == ("none", ["127.0.0.1"])
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["PidsLimit"]) == (True, ["ALL"], 256)
    assert host["Memory"] == host["MemorySwap"] == 8 * 1024**3
    assert host["NanoCpus"] == 4_000_000_000
    assert host["SecurityOpt"] == ["no-new-privileges:true", "seccomp={}"]
    assert "PortBindings" not in host
    assert [(mount["Target"], mount["ReadOnly"]) for mount in host["Mounts"]] == [("/models", True)]
    assert set(host["Tmpfs"]) == {"/tmp", "/configuration"}
    assert all("noexec" in options for options in host["Tmpfs"].values())
    assert made["Labels"]["cloned.directory"] == "/w/.cloned"


@pytest.mark.parametrize(
    ("processors", "cpus", "quota", "threads", "cpuset"),
    [(8, 4.0, 4.0, "4", "4,5,6,7"), (2, 4.0, 2.0, "2", "0,1"), (8, 2.5, 2.5, "2", "5,6,7"), (4, 0.5, 0.5, "1", "3")],
)
def test_threads_and_processors_follow_the_quota(
    processors: int, cpus: float, quota: float, threads: str, cpuset: str
) -> None:
    made = container(processors=processors, cpus=cpus)
    assert made["HostConfig"]["NanoCpus"] == quota * 1_000_000_000
    assert made["HostConfig"]["CpusetCpus"] == cpuset
    env = environment(made)
    assert (env["LOCALAI_THREADS"], env["OMP_NUM_THREADS"]) == (threads, threads)


def test_what_the_file_says_wins_over_the_preset() -> None:
    made = container(
        engine="vllm",
        command=["--model", "/models/x"],
        env={"HF_HOME": "/tmp/hf"},
        shm="2g",
        cache="none",
        memory="24g",
    )
    assert (made["Cmd"], environment(made)["HF_HOME"]) == (["--model", "/models/x"], "/tmp/hf")
    assert made["HostConfig"]["ShmSize"] == 2 * 1024**3
    assert made["HostConfig"]["Memory"] == 24 * 1024**3
    assert "/cache" not in made["HostConfig"]["Tmpfs"]


def test_a_cache_is_the_one_place_that_may_hold_programs() -> None:
    tmpfs = container(cache="2g")["HostConfig"]["Tmpfs"]
    assert "rw,exec,nosuid,nodev,size=2048m" in tmpfs["/cache"]
    assert "noexec" in tmpfs["/tmp"]
    made = container(cache="/srv/prefilled")
    assert "/cache" not in made["HostConfig"]["Tmpfs"]
    mount = made["HostConfig"]["Mounts"][-1]
    assert (mount["Source"], mount["Target"], mount["ReadOnly"]) == ("/srv/prefilled", "/cache", True)
    assert environment(made)["TRITON_CACHE_DIR"] == "/cache/triton"


@pytest.mark.parametrize(("gpus", "count"), [("all", -1), (2, 2)])
def test_gpus_by_the_toolkit(gpus: Any, count: int) -> None:
    host = container(GPU, gpus=gpus)["HostConfig"]
    assert host["DeviceRequests"] == [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]
    assert "Devices" not in host


def test_gpus_as_nodes_are_these_nodes_and_no_others() -> None:
    made = container(GPU, gpus="devices")
    host = made["HostConfig"]
    assert [device["PathOnHost"] for device in host["Devices"]] == list(NODES)
    assert {device["CgroupPermissions"] for device in host["Devices"]} == {"rw"}  # never m: no node is made in there
    assert "DeviceRequests" not in host
    assert host["Mounts"][1]["Source"] == "/usr/lib/libcuda.so.580"
    assert host["Mounts"][1]["ReadOnly"]


@pytest.mark.parametrize("gpus", ["all", 1, "devices"])
def test_a_gpu_gives_nothing_of_the_seal_away(gpus: Any) -> None:
    plain, made = container(GPU)["HostConfig"], container(GPU, gpus=gpus)["HostConfig"]
    added = {"Devices", "DeviceRequests", "Mounts"}
    assert {name: value for name, value in made.items() if name not in added} == {
        name: value for name, value in plain.items() if name not in added
    }


@pytest.mark.parametrize("user", ["0:0", "root", "0:1000"])
@pytest.mark.parametrize("gpus", ["all", "devices"])
def test_root_gets_no_gpu(user: str, gpus: Any) -> None:
    with pytest.raises(SandboxInputError, match="never runs as uid 0"):
        container(GPU, gpus=gpus, user=user)


def test_nodes_are_looked_for_where_they_are(tmp_path: Path) -> None:
    for name in ("nvidiactl", "nvidia0", "nvidia10", "nvidia2", "nvidia-modeset", "nvidia-uvm-tools", "nvidia-caps"):
        (tmp_path / name).touch()
    assert look(tmp_path).nodes == ()  # without nvidia-uvm CUDA does not start
    (tmp_path / "nvidia-uvm").touch()
    found = [Path(node).name for node in look(tmp_path, ("true",)).nodes]
    assert found == ["nvidiactl", "nvidia0", "nvidia2", "nvidia10", "nvidia-uvm"]
    with pytest.raises(SandboxInputError, match="load the driver"):
        container(NONE, gpus="devices")


def test_the_drivers_libraries_are_those_that_the_loader_knows(tmp_path: Path) -> None:
    for name in ("nvidiactl", "nvidia0", "nvidia-uvm"):
        (tmp_path / name).touch()
    listed = (
        "libcuda.so.1 (libc6,x86-64) => /lib/libcuda.so.1\\n\\tlibcudart.so.12 (libc6,x86-64) => /lib/libcudart.so.12"
    )
    found = look(tmp_path, ("printf", f"\\tlibcuda.so.1 (libc6) => /lib32/libcuda.so.1\\n\\t{listed}\\n"))
    assert [name for name, _ in found.libraries] == ["libcuda.so.1"]
    assert "/lib32/" not in found.libraries[0][1]


REFUSED: list[tuple[dict[str, Any], list[str], str, str]] = [
    ({"engine": "llama.cpp", "image": "i"}, [], "", "no .gguf file"),
    ({"engine": "llama.cpp", "image": "i"}, ["a.gguf", "b.gguf"], "", 'LLAMA_ARG_MODEL: "/models/a.gguf"'),
    ({"engine": "llama.cpp"}, ["a.gguf"], "", "no default image"),
    ({"engine": "ollama"}, [], "k3y", "asks no caller for a key"),
    ({"env": {"HTTP_PROXY": "http://elsewhere"}}, [], "", "set by the sandbox itself"),
    ({"memory": "1m"}, [], "", "memory '1m'"),
]


@pytest.mark.parametrize(("settings", "files", "key", "message"), REFUSED)
def test_what_cannot_work_is_refused_with_the_setting_to_change(
    settings: dict[str, Any], files: list[str], key: str, message: str
) -> None:
    def made() -> None:
        plan = plan_model(LlmSettings(**settings), Path("/m"), key=key, processors=[0], files=files)
        model_container(plan, workspace=Path("/w"), seccomp="{}", gpu=NONE)

    with pytest.raises(SandboxInputError, match=re.escape(message)):
        made()


@pytest.mark.parametrize(
    ("host", "runtimes", "told"),
    [
        (NONE, (), "none here"),
        (GpuHost(NODES, (), toolkit=False), (), "2, by `llm up --gpus devices` (no NVIDIA toolkit)"),
        (GpuHost(NODES, (), toolkit=False), ("nvidia",), "2, by `llm up --gpus all` or `--gpus devices`"),
        (GPU, (), "driver libraries: 1"),
    ],
)
def test_doctor_says_what_this_host_offers(host: GpuHost, runtimes: tuple[str, ...], told: str) -> None:
    facts = EngineFacts("Docker", "28.0", "1.48", "overlay2", (), runtimes, rootless=False, cgroup="v2")
    check = gpu_check(facts, host)
    assert (check.status, told in check.detail) == ("ok", True), check.detail
