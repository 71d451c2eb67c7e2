"""Whether a model server is ready, asked at the host's end of the relay, as any client asks."""

from __future__ import annotations

import contextlib
import enum
import http.client
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_SECONDS: Final = 5.0
_OK: Final = 200
_LOADING: Final = 503
_REFUSED: Final = (401, 403)
_CHAT: Final = "/v1/chat/completions"
_MAX_METRICS: Final = 1024 * 1024
_METRICS: Final[Mapping[str, str]] = {
    "llamacpp:prompt_tokens_total": "tokens_read",
    "llamacpp:tokens_predicted_total": "tokens_written",
    "llamacpp:tokens_predicted_seconds_total": "seconds_writing",
    "llamacpp:requests_processing": "requests_working",
    "llamacpp:requests_deferred": "requests_waiting",
    "vllm:prompt_tokens_total": "tokens_read",
    "vllm:generation_tokens_total": "tokens_written",
    "vllm:num_requests_running": "requests_working",
    "vllm:num_requests_waiting": "requests_waiting",
    "process_resident_memory_bytes": "memory_bytes",
}
"""The metrics that are read, by the names of llama.cpp, vLLM and LocalAI."""


class Health(enum.Enum):
    SILENT = "no answer"
    LOADING = "loading"
    UNFIT = "answers, but not as ready"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class HealthReport:
    health: Health
    said: str
    """What was answered, such as `/readyz 404, /health 503`."""


def ask_health(port: int, paths: Sequence[str], key: str = "") -> HealthReport:
    """Asks `paths` of 127.0.0.1:`port` in order until one decides.

    200 is ready; 503 is what servers say while they load. An endpoint that wants a key answers as well: the server is
    up, and which keys it accepts is another question (`open_without_key`).
    """
    said: list[str] = []
    for path in paths:
        status = _status(port, "GET", path, key)
        if status is None:
            continue
        said.append(f"{path} {status}")
        if status == _OK or status in _REFUSED:
            return HealthReport(Health.READY, ", ".join(said))
        if status == _LOADING:
            return HealthReport(Health.LOADING, ", ".join(said))
    return HealthReport(Health.UNFIT if said else Health.SILENT, ", ".join(said) or "nothing yet")


def open_without_key(port: int) -> str | None:
    """None when a chat without a key is refused; else what it got instead.

    The models' list proves nothing: llama.cpp gives it to everybody. The chat has no message in it, so that a server
    that does not look at keys computes nothing either.
    """
    status = _status(port, "POST", _CHAT, "")
    return None if status in _REFUSED else f"{_CHAT} {status or 'no answer'}"


def closed_with_key(port: int, key: str) -> str | None:
    """None when the key opens the chat; else what it got instead."""
    status = _status(port, "POST", _CHAT, key)
    return f"{_CHAT} {status or 'no answer'}" if status is None or status in _REFUSED else None


def model_metrics(port: int) -> dict[str, float]:
    """What the server's `/metrics` says of tokens and requests, summed over its labels; {} where it has none."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    found: dict[str, float] = {}
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError), contextlib.closing(link):
        link.request("GET", "/metrics", headers={"Accept": "text/plain;version=0.0.4"})
        answer = link.getresponse()
        text = answer.read(_MAX_METRICS).decode(errors="replace") if answer.status == _OK else ""
        for line in text.splitlines():
            name = line.partition("{")[0].partition(" ")[0]
            if (shown := _METRICS.get(name)) is not None:
                value = float(line.rpartition(" ")[2])
                found[shown] = found.get(shown, 0.0) + (value if math.isfinite(value) else 0.0)
    return found


def _status(port: int, method: str, path: str, key: str) -> int | None:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    fields = {"Authorization": f"Bearer {key}"} if key else {}
    body = None
    if method == "POST":
        body, fields = b'{"messages": []}', {**fields, "Content-Type": "application/json"}
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(link):
        link.request(method, path, body=body, headers=fields)
        return link.getresponse().status
    return None
