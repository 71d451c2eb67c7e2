"""Stands in for Grafana, which cannot be had here: reads the provisioning files as it would, and asks what they name.

GET /api/health, /api/search (the provisioned dashboards), /prometheus?query=… and /control/<path>, each through the
data source of its kind, with its address and its credential.
"""

from __future__ import annotations

import http.server
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

PROVISIONING = Path("/etc/grafana/provisioning")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def provisioned(kind: str) -> dict[str, Any]:
    (path,) = (PROVISIONING / kind).glob("*.yaml")
    # As Grafana expands them: the content of a file, and a doubled dollar as one.
    text = re.sub(r"\$__file\{([^}]+)\}", lambda found: Path(found[1]).read_text().strip(), path.read_text())
    found: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))
    return found


def source(kind: str) -> dict[str, Any]:
    (found,) = (each for each in provisioned("datasources")["datasources"] if each["type"] == kind)
    return dict(found)


def prometheus(query: str) -> tuple[str, dict[str, str]]:
    return f"{source('prometheus')['url']}/api/v1/query?{query}", {}


def infinity(path: str) -> tuple[str, dict[str, str]]:
    found = source("yesoreyeram-infinity-datasource")
    url = f"{found['url']}/{path}"
    assert any(url.startswith(host) for host in found["jsonData"]["allowedHosts"]), url
    assert found["jsonData"]["auth_method"] == "bearerToken"
    return url, {"Authorization": f"Bearer {found['secureJsonData']['bearerToken']}"}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        match url.path.split("/", 2)[1:]:
            case ["api", "health"]:
                self.answer(200, {"database": "ok"})
            case ["api", "search"]:
                (provider,) = provisioned("dashboards")["providers"]
                files = sorted(Path(provider["options"]["path"]).glob("*.json"))
                self.answer(200, [json.loads(file.read_text())["title"] for file in files])
            case ["prometheus"]:
                self.forward(*prometheus(url.query))
            case ["control", path]:
                self.forward(*infinity(f"{path}?{url.query}" if url.query else path))
            case _:
                self.answer(404, "not found")

    def forward(self, url: str, headers: dict[str, str]) -> None:
        try:
            with OPENER.open(urllib.request.Request(url, headers=headers), timeout=5) as found:
                self.answer(found.status, json.loads(found.read()))
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.read().decode(errors="replace"))

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
