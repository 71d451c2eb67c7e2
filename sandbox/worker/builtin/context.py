"""What a model can read at once, and sources cut to that."""

from __future__ import annotations

import re
from typing import Any

from egress import EgressError, fetch_json

CHARACTERS = 3
"""For a token, at the least: English has four, code and other languages fewer."""
RULES = 400
"""Tokens of what stands around the sources."""
SMALLEST = 200
REFUSALS = (400, 413, 422, 500)
"""With which servers answer a request that they cannot fit: the OpenAI interface says 400, LocalAI 500."""
TOO_LONG = re.compile(r"context|too long|too many tokens", re.IGNORECASE)


def context_of(base: str, model: str) -> int | None:
    """Tokens of the model's context, where its server tells: vLLM and llama.cpp do. Raises nothing."""
    try:
        models = fetch_json(f"{base}/models")["data"]
        entry = next(each for each in models if each["id"] == model)
        told = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
        if told is None and entry.get("owned_by") == "llamacpp":
            told = fetch_json(f"{base.removesuffix('/v1')}/props")["default_generation_settings"]["n_ctx"]
    except (EgressError, LookupError, TypeError, AttributeError, StopIteration):
        return None
    return told if type(told) is int and told > 0 else None


def room_for(context: int, max_tokens: int) -> tuple[int, int]:
    """(characters of sources, tokens of the answer) that fit: the answer takes half of the context at most."""
    tokens = min(max_tokens, context // 2)
    return max(SMALLEST, (context - tokens - RULES) * CHARACTERS), tokens


def does_not_fit(error: EgressError) -> bool:
    """Whether the server refused a request because it is longer than the model's context."""
    return error.status in REFUSALS and TOO_LONG.search(str(error)) is not None


def size_of(sources: list[dict[str, Any]]) -> int:
    """Characters that a model would read."""
    return sum(len(str(source.get("snippet", ""))) for source in sources)


def cut(sources: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """The sources in about `room` characters: each loses the same part and says how much; the last may be gone."""
    if size_of(sources) <= room:
        return sources
    sources = sources[: max(1, room // SMALLEST)]
    size = max(1, size_of(sources))
    return [source | {"snippet": _shortened(str(source.get("snippet", "")), room / size)} for source in sources]


def _shortened(text: str, part: float) -> str:
    kept = int(len(text) * min(1.0, part))
    if kept == len(text):
        return text
    return f"{text[:kept]}\n[… {len(text) - kept} more characters]"
