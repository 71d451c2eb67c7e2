"""A stand-in for a package registry: it speaks npm's and PyPI's protocols, with dates that a test chooses."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

DAY = 86_400.0
CANARY = b"too-young-canary-bytes"
AGES = {"1.0.0": 100 * DAY, "1.1.0": 8 * DAY, "2.0.0": DAY, "3.0.0": None, "4.0.0": -DAY}
YOUNG = "/left-pad/-/left-pad-2.0.0.tgz"
OLD = "/left-pad/-/left-pad-1.1.0.tgz"
"""In every file that is too young."""


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def versions(body: bytes) -> list[str]:
    """Those that a packument lists."""
    return list(json.loads(body)["versions"])


@dataclass
class Shelf:
    """What is asked of it is in `asked`; what it answers by path in `pages`."""

    base: str
    """Its own URL, without a slash at the end."""
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method and target of each request, in order."""
    heads: list[bytes] = field(default_factory=list)
    others: dict[str, bytes] = field(default_factory=dict)
    """What it answers under another name than its first."""
    zipped: bool = True
    otherwise: bytes = b""
    """The body for every path that it does not know; b"": 404."""

    def page(self, path: str, body: bytes, *, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (status, named, body)

    def packument(self, name: str, ages: Mapping[str, float | None], now: float, **more: Any) -> dict[str, Any]:
        """Puts a package there, each version so many seconds old (None: without a date), with its tarballs."""
        versions: dict[str, Any] = {}
        times: dict[str, str] = {"created": at(0), "modified": at(now)}
        for version, age in ages.items():
            path = f"/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
            versions[version] = {"name": name, "version": version, "dist": {"tarball": self.base + path}}
            if age is not None:
                times[version] = at(now - age)
            young = age is None or age < 7 * DAY
            self.page(path, CANARY if young else b"old tarball")
        document = {
            "name": name, "dist-tags": {"latest": list(ages)[-1]}, "versions": versions, "time": times, **more
        }  # fmt: skip
        self.put(name, document)
        return document

    def put(self, name: str, document: Any) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        for path in (f"/{name}", f"/{name.replace('/', '%2F')}"):
            self.page(path, body, content_type="application/json", etag='"unfiltered"')

    def project(self, name: str, files: Mapping[str, float | None], now: float, *, host: str = "") -> None:
        """Puts a project of PyPI there, each file so many seconds old, on this host or on another one."""
        listed = []
        for filename, age in files.items():
            path = f"/packages/{filename}"
            young = age is None or age < 7 * DAY
            for suffix in ("", ".metadata"):
                self.page(path + suffix, CANARY if young else b"old file")
            date = {} if age is None else {"upload-time": at(now - age)}
            listed.append({"filename": filename, "url": host + path, "hashes": {}, "core-metadata": True, **date})
        document = {"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": listed}
        self.page(f"/simple/{name}/", json.dumps(document).encode(), content_type="application/vnd.pypi.simple.v1+json")

    def _page(self, head: bytes, target: str) -> tuple[int, dict[str, str], bytes]:
        elsewhere = target.startswith("/simple/") and b"host: api.test" not in head.lower()  # it holds files alone
        found = None if elsewhere else self.pages.get(target)
        if target in self.others and b"host: api.test" not in head.lower():
            found = 200, {}, self.others[target]
        if found is None and self.otherwise:
            return 200, {}, self.otherwise
        return found or (404, {}, b'{"error":"not found"}')

    async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            self.heads.append(head)
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            self.asked.append(f"{method} {target}")
            status, headers, body = self._page(head, target)
            if self.zipped and b"accept-encoding: gzip" in head.lower():
                body, headers = gzip.compress(body), {**headers, "content-encoding": "gzip"}
            lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
            writer.write("\r\n".join((*lines, f"content-length: {len(body)}", "", "")).encode())
            writer.write(b"" if method == "HEAD" else body)
            await writer.drain()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return head
