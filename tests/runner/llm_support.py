"""`llm` as a user calls it, and the image of the stand-in for a model's server."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from tests.cli import forkserver

STAND_IN = "cloned-localai-stand-in:latest"


def build_stand_in(engine: Engine) -> str:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(Path(__file__).with_name("localai_stand_in.py"), f"{folder}/stand_in.py")
        Path(folder, "Dockerfile").write_text(
            f"FROM {PYTHON_IMAGE} AS stand-in\nUSER 0:0\nCOPY stand_in.py /stand_in.py\n"
            'ENTRYPOINT ["python3", "/stand_in.py"]\nCMD []\n'
        )
        engine.build(folder, target="stand-in", tag=STAND_IN, args={}, labels={"stand-in": "true"})
    return STAND_IN


def llm(action: str, workspace: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(forkserver.PROGRAM), "llm", action, "--workspace", str(workspace), *words]
    return forkserver.run(command, env={**os.environ, **env}, cwd=Path.cwd())


def settings(workspace: Path, **llm_settings: Any) -> None:
    (workspace / "config.yaml").write_text(yaml.safe_dump({"llm": llm_settings}))
