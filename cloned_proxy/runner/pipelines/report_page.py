"""A report as one HTML file that a browser opens, with nothing in it that a browser would fetch, run or follow. Pure.

The text is a model's, and the model read the open web: it is hostile until shown otherwise. Markdown's own HTML is
escaped, images are none, and a link is shown with its address instead of being one, unless it is one of the sources.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

_INCOMPLETE: Final = "The model did not come to an end: this text is incomplete."
_MAX_MARKDOWN: Final = 256 * 1024
"""Characters; longer texts are shown as they are, because reading Markdown is not linear in all cases."""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE: Final = (
    "body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "body{color:#1d2129;background:#fff}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;font-size:.85rem;color:#4d5665}dd{margin:0}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere}code{overflow-wrap:anywhere}"
    ".cut{border-left:4px solid #b45309;padding:.4rem .8rem;background:#fff7ed}"
    "table{border-collapse:collapse}td,th{border:1px solid #c9ced6;padding:.2rem .5rem}"
    "@media(prefers-color-scheme:dark){body{color:#e4e7ec;background:#16181d}dl{color:#9aa4b2}.cut{background:#2b2012}}"
)


def report_page(text: str, manifest: Mapping[str, Any]) -> str:
    """The page for an artifact's Markdown and its manifest."""
    title = html.escape(str(manifest.get("title", "report")))
    sources = {str(source) for source in manifest.get("sources") or [] if _is_web(str(source))}
    facts = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in _facts(manifest))
    cut = f'<p class="cut">{_INCOMPLETE}</p>' if manifest.get("truncated") else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="referrer" content="no-referrer"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>{cut}<main>{_body(text, sources)}</main>"
        f"<hr><dl>{facts}</dl></body></html>\n"
    )


def _body(text: str, sources: set[str]) -> str:
    if len(text) > _MAX_MARKDOWN:
        return f"<pre>{html.escape(text)}</pre>"
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    reader.add_render_rule("link_open", _open)
    reader.add_render_rule("link_close", _close)
    made: str = reader.render(text, {"sources": sources})
    return made


def _open(_self: RendererHTML, tokens: Sequence[Token], at: int, _options: Any, env: Any) -> str:
    address = str(tokens[at].attrGet("href") or "")
    if address in env["sources"]:
        return f'<a href="{html.escape(address)}" rel="noreferrer noopener" target="_blank">'
    return "<span>"


def _close(_self: RendererHTML, tokens: Sequence[Token], at: int, _options: Any, env: Any) -> str:
    opened = next(token for token in reversed(tokens[:at]) if token.type == "link_open")  # links do not nest
    address = str(opened.attrGet("href") or "")
    return "</a>" if address in env["sources"] else f" <code>{html.escape(address)}</code></span>"


def _is_web(address: str) -> bool:
    return address.startswith(("https://", "http://"))


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    costs = manifest.get("costs") or {}
    tokens = costs.get("completion_tokens")
    rows = [
        ("pipeline", manifest.get("pipeline")),
        ("created", manifest.get("created")),
        ("model", manifest.get("model")),
        ("ended", manifest.get("finish_reason")),
        ("tokens", f"{costs.get('prompt_tokens')} read, {tokens} written" if tokens is not None else None),
        ("seconds", costs.get("seconds")),
        ("sha256", manifest.get("sha256")),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]
