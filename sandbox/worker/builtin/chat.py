"""One answer of a model by the OpenAI chat completions interface, streamed, with how it ended and what it cost."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from egress import EgressError, fetch_events, fetch_json

DEFAULT_BASE = "http://127.0.0.1:8080/v1"
MAX_TEXT = 4 * 1024 * 1024
UNAUTHORIZED = 401
AWAY = (None, 502, 504)
"""No answer at all, or the proxy's own about a server that gave none."""
KEY_HINT = (
    "the model wants a key, which the proxy adds: `cloned-proxy vault set llm.api_key`, and in the rule for the model "
    'inject: {header: Authorization, value: "Bearer ${vault:llm.api_key}"}'
)


def model_of(settings: dict[str, Any]) -> tuple[str, str]:
    """(base URL, name): those of the settings, else the local model's, and the first that its server has.

    Raises EgressError, ValueError.
    """
    base = str(settings.get("llm_api_base") or DEFAULT_BASE).rstrip("/")
    if settings.get("llm_model"):
        return base, str(settings["llm_model"])
    with _explained(base):
        found = fetch_json(f"{base}/models")
    models = found.get("data") if isinstance(found, dict) else None
    if not isinstance(models, list) or not models or not isinstance(models[0], dict) or "id" not in models[0]:
        raise ValueError(f"{base} has no model; set LLM_MODEL or install one")
    return base, str(models[0]["id"])


def chat(
    base: str, model: str, messages: list[dict[str, str]], *, max_tokens: int, idle: float, watch: bool
) -> dict[str, Any]:
    """{"text", "model", "finish_reason", "truncated", "usage", "seconds", "first_token_seconds"}.

    `watch` prints the words to stderr as they come. Anything but `stop` is a truncated answer: `length` is the limit of
    tokens or the end of the context, and servers that were interrupted name no reason at all.
    Raises EgressError, ValueError for an answer without a text.
    """
    body = {
        "model": model,
        "messages": messages,
        "temperature": 0.2,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = Answer(watch)
    began = time.monotonic()
    with _explained(base):
        for event in fetch_events(f"{base}/chat/completions", body=body, idle=idle):
            answer.take(event, time.monotonic() - began)
    if not answer.text.strip():
        raise ValueError(answer.why_empty())
    return {
        "text": answer.text.strip(),
        "model": model,
        "finish_reason": answer.finish_reason,
        "truncated": answer.finish_reason != "stop",
        "usage": answer.usage,
        "seconds": round(time.monotonic() - began, 3),
        "first_token_seconds": answer.first,
    }


@contextlib.contextmanager
def _explained(base: str) -> Iterator[None]:
    """Adds where to look to what the model's server said, or did not."""
    try:
        yield
    except EgressError as error:
        if error.status == UNAUTHORIZED:
            hint = KEY_HINT
        elif error.status in AWAY and base == DEFAULT_BASE:
            hint = "`cloned-proxy llm status` says what became of the local model"
        else:
            raise
        raise EgressError(f"{error}; {hint}", error.status) from None


class Answer:
    """Puts the pieces of an answer together."""

    def __init__(self, watch: bool) -> None:
        self._watch = watch
        self._pieces: list[str] = []
        self._size = 0
        self._calls: list[str] = []
        self.finish_reason: str | None = None
        self.usage: dict[str, int | None] = {"prompt_tokens": None, "completion_tokens": None}
        self.first: float | None = None

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, event: Any, seconds: float) -> None:
        """One event of the stream, or the whole answer. Raises EgressError, ValueError for what is neither."""
        if not isinstance(event, dict):
            raise ValueError("the model's answer is not an object")  # noqa: TRY004  what a tool reports
        if "error" in event:
            raise EgressError(f"the model failed: {str(event['error'])[:300]}")
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.usage = {name: usage[name] if type(usage.get(name)) is int else None for name in self.usage}
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise ValueError("the model's answer has no message in it")  # noqa: TRY004  what a tool reports
        if not choices:
            return
        choice = choices[0] if isinstance(choices[0], dict) else {}
        said = choice.get("delta") or choice.get("message") or {}
        self._add(said.get("content") if isinstance(said, dict) else None, seconds)
        for call in (said.get("tool_calls") or []) if isinstance(said, dict) else []:
            self._calls.append(str((call.get("function") or {}).get("name")) if isinstance(call, dict) else "?")
        if isinstance(choice.get("finish_reason"), str):
            self.finish_reason = choice["finish_reason"][:40]

    def why_empty(self) -> str:
        if self._calls:
            return f"the model answered with a call of {self._calls[0][:100]!r}, which nobody offered, and no text"
        return "the model answered with nothing"

    def _add(self, piece: Any, seconds: float) -> None:
        if not isinstance(piece, str) or not piece:
            return
        if self.first is None:
            self.first = round(seconds, 3)
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > MAX_TEXT:
            raise ValueError(f"the model answered with more than {MAX_TEXT} characters")
        if self._watch:
            sys.stderr.write(piece)
            sys.stderr.flush()
