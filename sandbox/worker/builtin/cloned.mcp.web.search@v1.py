"""Web search: Brave when there is a key, else DuckDuckGo's instant answers.

Input {"query", "limit"?}; output {"provider", "results": [{"title", "url", "snippet"}]}.
"""

from __future__ import annotations

import urllib.parse
from typing import Any

from egress import fetch_json

BRAVE = "https://api.search.brave.com"
DUCKDUCKGO = "https://api.duckduckgo.com"
MAX_RESULTS = 20


def run(tool_input: Any, ctx: Any) -> dict[str, Any]:
    """Searches. Raises EgressError, ValueError."""
    query = str(tool_input.get("query", "")).strip() if isinstance(tool_input, dict) else ""
    if not query:
        raise ValueError("the search needs a query")
    limit = max(1, min(int(tool_input.get("limit", 8)), MAX_RESULTS))
    settings = (ctx or {}).get("settings", {})
    key = settings.get("brave_api_key")
    base = settings.get("search_api_base")
    results = brave(base or BRAVE, key, query, limit) if key else duckduckgo(base or DUCKDUCKGO, query)
    if not results:
        raise ValueError(f"the search for {query!r} found nothing; try another topic")
    return {"provider": "brave" if key else "duckduckgo", "results": results[:limit]}


def brave(base: str, key: str, query: str, limit: int) -> list[dict[str, str]]:
    """Brave's web search API."""
    words = urllib.parse.urlencode({"q": query, "count": limit})
    found = fetch_json(f"{base}/res/v1/web/search?{words}", headers={"X-Subscription-Token": key})
    rows = (found.get("web") or {}).get("results") or []
    return [_result(row.get("title"), row.get("url"), row.get("description")) for row in rows if row.get("url")]


def duckduckgo(base: str, query: str) -> list[dict[str, str]]:
    """DuckDuckGo's instant answers: an abstract, and related topics, which may be grouped."""
    words = urllib.parse.urlencode({"q": query, "format": "json", "no_html": 1, "no_redirect": 1})
    found = fetch_json(f"{base}/?{words}")
    results = []
    if found.get("AbstractURL"):
        results.append(_result(found.get("Heading"), found["AbstractURL"], found.get("AbstractText")))
    for topic in found.get("RelatedTopics") or []:
        rows = [row for row in topic.get("Topics", [topic]) if row.get("FirstURL")]
        results += [_result(row.get("Text"), row["FirstURL"], row.get("Text")) for row in rows]
    return results


def _result(title: Any, url: Any, snippet: Any) -> dict[str, str]:
    return {"title": str(title or url)[:200], "url": str(url)[:1000], "snippet": str(snippet or "")[:1000]}
