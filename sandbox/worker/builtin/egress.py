"""HTTP for the built-in tools: through the proxy of the environment, with the proxy's own words in every error."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

MAX_ANSWER = 4 * 1024 * 1024
MAX_LINE = 1024 * 1024
OWN_HOST = "cloned.internal"
"""Where the proxy itself answers."""
LOCAL_MODEL = {("localhost", 8080), ("127.0.0.1", 8080)}


class EgressError(Exception):
    """A request that failed; the message names the host and, when the proxy refused it, the reason and the hint."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Of an answer that was an error."""


def fetch_json(url: str, *, headers: dict[str, str] | None = None, body: Any = None, timeout: float = 60.0) -> Any:
    """The JSON at `url`. Raises EgressError."""
    place = urllib.parse.urlsplit(url).netloc
    try:
        with _open(url, headers or {}, body, timeout) as answer:
            return _json(answer, place)
    except (OSError, http.client.HTTPException) as error:
        raise EgressError(f"{place} broke off: {error}") from error


def fetch_events(url: str, *, body: Any, idle: float) -> Iterator[Any]:
    """The JSON of each server-sent event that answers `body`, as it comes; the one JSON answer of who does not stream.

    `idle` is how many seconds the server may say nothing. Raises EgressError, also when the stream ends without its
    `[DONE]`: a connection that broke looks like an end otherwise.
    """
    place = urllib.parse.urlsplit(url).netloc
    try:
        with _open(url, {"Accept": "text/event-stream, application/json"}, body, idle) as answer:
            if answer.headers.get_content_type() != "text/event-stream":
                yield _json(answer, place)
                return
            yield from _events(answer, place)
    except TimeoutError as error:
        raise EgressError(f"{place} said nothing for {idle:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise EgressError(f"{place} broke off: {error}") from error


def _events(answer: Any, place: str) -> Iterator[Any]:
    size = 0
    while line := answer.readline(MAX_LINE + 1):
        size += len(line)
        if len(line) > MAX_LINE or size > 4 * MAX_ANSWER:
            raise EgressError(f"{place} answered with more than {MAX_ANSWER} bytes")
        name, _, data = line.partition(b":")
        if name != b"data":
            continue
        if data.strip() == b"[DONE]":
            return
        try:
            yield json.loads(data)
        except ValueError as error:
            raise EgressError(f"{place} streams something that is not JSON") from error
    raise EgressError(f"{place} broke off in the middle of its answer")


def _open(url: str, headers: dict[str, str], body: Any, timeout: float) -> Any:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EgressError(f"{url!r} is not an http or https URL")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Accept": "application/json", **headers})  # noqa: S310  checked above
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        return _opener(parts).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        raise EgressError(f"{parts.netloc} answered {error.code}{_refusal(error)}", error.code) from error
    except OSError as error:
        raise EgressError(f"{parts.netloc} cannot be reached: {getattr(error, 'reason', error)}") from error


def _json(answer: Any, place: str) -> Any:
    raw = answer.read(MAX_ANSWER + 1)
    if len(raw) > MAX_ANSWER:
        raise EgressError(f"{place} answered with more than {MAX_ANSWER} bytes")
    try:
        return json.loads(raw)
    except ValueError as error:
        raise EgressError(f"{place} answered with something that is not JSON") from error


def _opener(parts: urllib.parse.SplitResult) -> urllib.request.OpenerDirector:
    # The local model has a port of its own in the sandbox, which leads to it under the rule for 127.0.0.1:8080.
    sandboxed = os.environ.get("CLONED_SANDBOX") == "1"
    if sandboxed and parts.scheme == "http" and (parts.hostname, parts.port) in LOCAL_MODEL:
        return urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener()


def _refusal(error: urllib.error.HTTPError) -> str:
    """What an error answer says of itself: the proxy's reason and hint, or the model's own message."""
    reason = error.headers.get("X-Cloned-Proxy-Reason", "")
    own = urllib.parse.urlsplit(error.url).hostname == OWN_HOST
    try:
        answer = json.loads(error.read(65_536))
        if own:
            return f": {answer['message']}"
        if reason:
            return f": {answer['reason']}; {answer['hint']}"
        return f": {str(answer['error']['message'])[:300]}"
    except (ValueError, KeyError, TypeError, OSError):
        return f": {reason}" if reason else ""
