"""HTTP for the built-in tools: through the proxy of the environment, with the proxy's own words in every error."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

MAX_ANSWER = 4 * 1024 * 1024
OWN_HOST = "cloned.internal"
"""Where the proxy itself answers."""
LOCAL_MODEL = {("localhost", 8080), ("127.0.0.1", 8080)}


class EgressError(Exception):
    """A request that failed; the message names the host and, when the proxy refused it, the reason and the hint."""


def fetch_json(url: str, *, headers: dict[str, str] | None = None, body: Any = None, timeout: float = 60.0) -> Any:
    """The JSON at `url`. Raises EgressError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EgressError(f"{url!r} is not an http or https URL")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Accept": "application/json", **(headers or {})})  # noqa: S310  checked above
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with _opener(parts).open(request, timeout=timeout) as answer:
            raw = answer.read(MAX_ANSWER + 1)
    except urllib.error.HTTPError as error:
        raise EgressError(f"{parts.netloc} answered {error.code}{_refusal(error)}") from error
    except OSError as error:
        raise EgressError(f"{parts.netloc} cannot be reached: {getattr(error, 'reason', error)}") from error
    if len(raw) > MAX_ANSWER:
        raise EgressError(f"{parts.netloc} answered with more than {MAX_ANSWER} bytes")
    try:
        return json.loads(raw)
    except ValueError as error:
        raise EgressError(f"{parts.netloc} answered with something that is not JSON") from error


def _opener(parts: urllib.parse.SplitResult) -> urllib.request.OpenerDirector:
    # The local model has a port of its own in the sandbox, which leads to it under the rule for 127.0.0.1:8080.
    sandboxed = os.environ.get("CLONED_SANDBOX") == "1"
    if sandboxed and parts.scheme == "http" and (parts.hostname, parts.port) in LOCAL_MODEL:
        return urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener()


def _refusal(error: urllib.error.HTTPError) -> str:
    reason = error.headers.get("X-Cloned-Proxy-Reason", "")
    own = urllib.parse.urlsplit(error.url).hostname == OWN_HOST
    if not reason and not own:
        return ""
    try:
        answer = json.loads(error.read(65_536))
        return f": {answer['message']}" if own else f": {answer['reason']}; {answer['hint']}"
    except (ValueError, KeyError, TypeError, OSError):
        return f": {reason}" if reason else ""
