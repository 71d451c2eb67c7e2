"""Emptying a directory as the user whose files are in it, where the runner's own user may not."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from cloned_proxy.runner.docker.containers import sweeper_container
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.slots.owner import owner_id
from cloned_proxy.runner.values.spec import SandboxSpec, workspace_mark
from cloned_proxy.share import share_path

_SECONDS: Final = 120.0


def sweep(engine: Engine, spec: SandboxSpec, *, seconds: float) -> None:
    """Empties the scratch directory of a run that has ended, as the tool's user. Raises EngineError."""
    with engine.container(spec.name, sweeper_container(spec)) as container:
        engine.start(container)
        engine.wait(container, seconds)


def sweep_directory(engine: Engine, workspace: Path, directory: Path, user: str) -> None:
    """The same for any directory; `user` is a number of the worker image, as in 65532:65532. Raises SandboxError."""
    spec = SandboxSpec(
        tool="home",
        run="",
        name=f"cloned_tool_{secrets.token_hex(4)}",
        image=PYTHON_IMAGE,
        command=("sh",),
        holder="",
        scratch=str(directory),
        seccomp=share_path("sandbox", "seccomp.json").read_text(encoding="utf-8"),
        user=user,
        owner=owner_id(),
        workspace_mark=workspace_mark(workspace),
    )
    sweep(engine, spec, seconds=_SECONDS)
