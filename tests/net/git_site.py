"""`git http-backend` behind a canary: bare repositories below `repositories/` are served as `/OWNER/NAME.git`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CALL: Final = re.compile(r"(/[\w-]+/[\w-]+\.git)/(?:info/refs|git-upload-pack|git-receive-pack)")


@dataclass(frozen=True, slots=True)
class GitCall:
    """One request of git's smart HTTP protocol."""

    root: Path
    method: str
    path: str
    query: str
    headers: Mapping[str, str]

    def answer(self, body: bytes) -> bytes:
        """The whole response, as HTTP/1.1 with a length."""
        given = {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": self.path,
            "QUERY_STRING": self.query,
            "REQUEST_METHOD": self.method,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            "REMOTE_ADDR": "192.0.2.1",
            "PATH": os.environ["PATH"],
        }
        # The owner of the repository is whoever runs the tests, and git asks whether that is right.
        safe = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        done = subprocess.run(
            ["git", "http-backend"], input=body, env={**given, **safe}, capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"status:")]
        status = next(
            (line[7:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"status:")), b"200 OK"
        )
        lines = [b"HTTP/1.1 " + status, *fields, b"Content-Length: %d" % len(content)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + content


def git_call(content: Path, method: str, target: str, headers: Mapping[str, str]) -> GitCall | None:
    """None for a request that is not one to a repository which is there."""
    path, _, query = target.partition("?")
    match, root = _CALL.fullmatch(path), content / "repositories"
    if match is None or not (root / match[1].lstrip("/")).is_dir():
        return None
    return GitCall(root, method, path, query, headers)
