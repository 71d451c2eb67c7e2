"""Pictures of the control UI from real data: a real `serve`, real calls by curl, and a real Chromium.

`make screenshots` writes docs/control-ui*.png, for docs/control-ui.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.cli.program import Origin
from tests.control.browser.scene import Scene, launch, show, tunnel, workspace_in

OUTPUT: Final = Path(__file__).parents[2] / "docs"
AGENT: Final = "research.agent@v1"
BUILD: Final = "build.tool@v1"
POLICY: Final = f"""version: 1
anonymous: global
global:
  allow: [{{host: 127.0.0.1, ports: [$PORT], protocols: [tcp], reason: the local model}}]
tools:
  {AGENT}:
    allow:
      - {{host: api.search.example.com, methods: [GET], paths: ["/v1/**"]}}
      - {{host: uploads.example.com, expires: 2126-12-01T00:00:00Z, max_uses: 5, reason: the weekly report}}
    deny: [tracker.example.net]
    on_deny: ask
  {BUILD}:
    allow: ["**.packages.example.org"]
"""
ASKED: Final = (
    (AGENT, 1, "https://papers.example.org/"),
    (AGENT, 3, "http://tracker.example.net/pixel"),
    (BUILD, 4, "https://mirror.example.net/"),
    (BUILD, 1, "http://mirror.example.net:8080/index"),
    (BUILD, 6, "https://telemetry.example.com/"),
    (None, 2, "http://169.254.169.254/latest/meta-data/"),
)
_PALETTE: Final = 128


def play(scene: Scene) -> None:
    """What a morning may look like."""
    for tool, times, url in ASKED:
        for _ in range(times):
            scene.curl_to(url, tool)
    scene.workspace.run("allow", "files.example.com", "--tool", BUILD, "--for", "2h", "--reason", "until the release")


def keep(page: Page, name: str) -> None:
    """With as many colours as letters and badges need."""
    path = OUTPUT / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(_PALETTE)
    small.save(path, optimize=True)
    sys.stdout.write(f"{path}\n")


def take(scene: Scene) -> None:
    """Overview, the rules and a dialog on a desk; the overview in the dark on a phone."""
    desk, phone = scene.page(height=860), scene.page(width=390, height=844, scheme="dark")
    show(scene, desk)
    keep(desk, "control-ui")
    show(scene, desk, "rules")
    keep(desk, "control-ui-rules")
    show(scene, desk)
    row = desk.locator("li.group:not(.request)", has_text="mirror.example.net")
    row.get_by_role("button", name="For 30 min").click()
    keep(desk, "control-ui-dialog")
    show(scene, phone)
    keep(phone, "control-ui-phone")


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cloned-pictures-") as name, sync_playwright() as playwright:
        project = Path(name) / "project"
        project.mkdir()
        browser, origin, workspace = launch(playwright.chromium), Origin(), workspace_in(project / ".cloned")
        try:
            scene = Scene.start(workspace, origin, browser, POLICY.replace("$PORT", str(origin.port)))
            play(scene)
            with tunnel(scene):
                take(scene)
            scene.close()
        finally:
            workspace.close()
            origin.close()
            browser.close()


if __name__ == "__main__":
    main()
