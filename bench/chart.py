"""Bar charts as SVG, by hand: one group a workload, one bar a contender, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 760
_LABELS: Final = 170
_FIGURES: Final = 90
_BAR: Final = 16
_STEP: Final = 20
_GROUP_HEAD: Final = 34
_OURS: Final = "#2f6fde"
_OTHERS: Final = "#9aa4b2"
_TEXT: Final = "#6b7480"


@dataclass(frozen=True, slots=True)
class Bars:
    title: str
    unit: str
    values: Sequence[tuple[str, float]]
    """Name and value; a value of 0 is drawn as missing."""


def draw(title: str, groups: Sequence[Bars]) -> str:
    """One SVG document. Each group has its own scale: the units differ."""
    parts: list[str] = []
    y = 34
    for group in groups:
        y += _GROUP_HEAD
        parts.append(_text(12, y - 10, f"{group.title} ({group.unit})", bold=True))
        most = max((value for _, value in group.values), default=0.0)
        for name, value in group.values:
            parts.append(_bar(y, name, value, most))
            y += _STEP
    height = y + 16
    style = "font-family:system-ui,sans-serif;font-size:12px"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" style="{style}">'
    return "\n".join((head, f"<title>{escape(title)}</title>", _text(12, 24, title, bold=True), *parts, "</svg>\n"))


def _bar(y: int, name: str, value: float, most: float) -> str:
    room = _WIDTH - _LABELS - _FIGURES
    width = max(1.0, value / most * room) if most > 0 and value > 0 else 0.0
    colour = _OURS if name.startswith("cloned-proxy") else _OTHERS
    figure = (f"{value:.1f}" if value < 10 else f"{value:,.0f}") if value > 0 else "n/a"
    bar = f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>'
    return _text(12, y + 12, name) + bar + _text(_LABELS + width + 6, y + 12, figure)


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" fill="{_TEXT}"{weight}>{escape(text)}</text>'
