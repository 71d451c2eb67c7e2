"""A real `serve` with something to block, and a real Chromium that looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, ConsoleMessage, Page, Request, expect

from tests.cli.program import TOOL, Origin, Serving, Workspace, policy_text
from tests.control.support import Control, control_of
from tests.net.world import ROOT

FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWS: Final = {
    "": "Overview",
    "live": "Live",
    "rules": "Rules",
    "tunnels": "Tunnels",
    "sandbox": "Sandbox",
    "model": "Model",
    "history": "History",
    "devices": "Devices",
}
PICTURES: Final = ROOT / ".ci-artifacts"
NETWORK_CHANGED: Final = "ERR_NETWORK_CHANGED"
"""Chromium breaks off what it loads, of this machine as well, when a container's network comes or goes."""
WAIT: Final = 20_000.0
"""Milliseconds until something that must appear is missing; far above what it takes."""


def headless_shell() -> str:
    """Chromium without its windows, profiles and permissions, for what a page does: a third of the work for each page.

    Where the distribution has none, or what the browser around the page forbids is in question, `chromium`.
    """
    return shutil.which("chromium-headless-shell") or chromium()


def chromium() -> str:
    """The distribution's Chromium; without one the test is skipped, and fails in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is required in CI: apt-get install chromium")
        pytest.skip("no Chromium: apt-get install chromium")
    return found


def launch(kind: BrowserType, *flags: str, program: str | None = None) -> Browser:
    return kind.launch(executable_path=program or chromium(), args=[*FLAGS, *flags])


@dataclass
class Scene:
    """One workspace that serves, an origin behind the proxy, and the pages that look at it."""

    workspace: Workspace
    serving: Serving
    origin: Origin
    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    """What a console said, and requests to anywhere else."""

    @classmethod
    def start(cls, workspace: Workspace, origin: Origin, browser: Browser, policy: str = "") -> Scene:
        workspace.write_policy(policy or policy_text())
        return cls(workspace, workspace.serve("--control", "127.0.0.1:0"), origin, browser)

    @property
    def control(self) -> Control:
        return control_of(self.workspace, self.serving)

    @property
    def url(self) -> str:
        return self.control.origin

    @property
    def target(self) -> str:
        """The origin as the UI writes it."""
        return f"127.0.0.1:{self.origin.port}"

    def curl(self, path: str = "/", tool: str | None = TOOL) -> int:
        """One call to the origin through the proxy; its status."""
        return self.curl_to(f"http://{self.target}{path}", tool)

    def curl_to(self, url: str, tool: str | None = TOOL) -> int:
        """One call by the real client; 0 when a tunnel was refused."""
        command = ["curl", "--silent", "--output", os.devnull, "--write-out", "%{http_code}", "--max-time", "20"]
        command += ["--proxy", f"http://127.0.0.1:{self.serving.port}"]
        if tool is not None:
            command += ["--proxy-header", f"Proxy-Authorization: Bearer {self.credential(tool)}"]
        done = subprocess.run([*command, url], capture_output=True, text=True, check=False, timeout=30)
        return int(done.stdout)

    def credential(self, tool: str) -> str:
        """Minted once for each tool."""
        if tool not in self.tokens:
            self.tokens[tool] = self.workspace.json("token", tool)["token"]
        return self.tokens[tool]

    def recorded(self, verdict: str) -> int:
        """How many decisions with this verdict are on record."""
        lines = self.workspace.run("log", "--json").stdout.splitlines()
        return sum(json.loads(line).get("verdict") == verdict for line in lines)

    def page(self, *, width: int = 1280, height: int = 900, scheme: str = "light", paired: bool = True) -> Page:
        """A page of a browser of its own, with a session unless told otherwise; on no address yet."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        self.contexts.append(context)
        if paired:
            name, _, value = self.control.paired(f"window {width}").cookie.partition("=")
            context.add_cookies(
                [{"name": name, "value": value, "url": self.url, "httpOnly": True, "sameSite": "Strict"}]
            )
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        page.on("request", self._follow)
        return page

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and NETWORK_CHANGED not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def _follow(self, request: Request) -> None:
        if not request.url.startswith(f"{self.url}/"):
            self.complaints.append(f"asked {request.url}")

    def close(self) -> None:
        for context in self.contexts:
            context.close()


def show(scene: Scene, page: Page, view: str = "") -> None:
    """Goes to a view and waits until it has its content."""
    page.goto(f"{scene.url}/#/{view}")
    try:
        expect(page.get_by_role("heading", level=1)).to_have_text(VIEWS[view], timeout=WAIT / 2)
    except AssertionError:
        page.reload()  # its scripts may have been broken off: NETWORK_CHANGED
        expect(page.get_by_role("heading", level=1)).to_have_text(VIEWS[view], timeout=WAIT)
    expect(page.locator("main .view")).to_have_attribute("aria-busy", "false", timeout=WAIT)


def last_for(page: Page, length: str) -> None:
    """Chooses a length of one's own in the open dialog."""
    page.get_by_role("radio", name="Other").check()
    page.get_by_label("Other length").fill(length)


def picture(page: Page, name: str) -> None:
    """Kept by CI, to be looked at by people."""
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.png")


@contextlib.contextmanager
def tunnel(scene: Scene) -> Iterator[socket.socket]:
    """An open tunnel to the origin, through which one request has gone."""
    with socket.create_connection(("127.0.0.1", scene.serving.port), timeout=20) as client:
        client.sendall(f"CONNECT {scene.target} HTTP/1.1\r\nHost: {scene.target}\r\n\r\n".encode())
        assert b" 200 " in client.recv(4096).partition(b"\r\n")[0]
        client.sendall(b"GET /inside HTTP/1.1\r\nHost: origin\r\n\r\n")
        answer = b""
        while not answer.endswith(b"reached\n"):
            piece = client.recv(4096)
            assert piece, answer
            answer += piece
        yield client


def workspace_in(path: Path) -> Workspace:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    # Which proxies run on this machine is told in that folder: those of a developer and of other tests are not ours.
    return Workspace(path, kept | {"CLONED_WORKSPACE": str(path), "XDG_RUNTIME_DIR": str(path.parent)})
