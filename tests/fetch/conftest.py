"""The program, a site behind it, and a Python tool that fetches."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from cloned_proxy import SafeFetch
from tests.cli.conftest import workspace
from tests.cli.program import Workspace
from tests.cli.site import Site

__all__ = ["workspace"]

TOOL = "fetching.tool@v1"


@dataclass
class Scene:
    workspace: Workspace
    plain: Site
    secure: Site
    elsewhere: Site
    """Allowed to nobody."""
    ca: Path

    def policy(self, *more: str, mode: str = "enforce") -> str:
        entries = [
            f"{{host: localhost, ports: [{self.plain.port}], addresses: [private]}}",
            f"{{host: localhost, ports: [{self.secure.port}], addresses: [private]}}",
            *more,
        ]
        head = f"version: 1\nmode: {mode}\nanonymous: deny\ntools:\n  {TOOL}:\n    allow:\n"
        return head + "".join(f"      - {entry}\n" for entry in entries)

    def fetch(self, policy: Path | None = None) -> SafeFetch:
        return SafeFetch(TOOL, workspace=self.workspace.path, extra_ca=self.ca, policy=policy)


@pytest.fixture
def s(workspace: Workspace, tmp_path: Path) -> Iterator[Scene]:
    ca = trustme.CA()
    trusted = tmp_path / "upstream-ca.pem"
    ca.cert_pem.write_to_path(str(trusted))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    scene = Scene(workspace, Site(), Site(context), Site(), trusted)
    workspace.environment["SSL_CERT_FILE"] = str(trusted)
    workspace.write_policy(scene.policy())
    yield scene
    for site in (scene.plain, scene.secure, scene.elsewhere):
        site.close()
