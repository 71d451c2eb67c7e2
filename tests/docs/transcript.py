"""Transcripts of documents: what two runs of the same commands may print differently, and nothing else."""

from __future__ import annotations

import re

_VARIABLE = (
    (re.compile(r"\b[0-9a-f]{24}\b"), "<id>"),
    (re.compile(r"\br-[0-9a-f]{10}\b"), "<rule>"),
    (re.compile(r"\bversion [0-9a-f]{12}\b"), "version <hash>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<time>"),
    (re.compile(r"\bcli:[^:\s]+"), "cli:<user>"),
    (re.compile(r"in (29m 5\ds|30m)|\b\ds ago"), "<span>"),
    (re.compile(r"^date: .*$", re.MULTILINE | re.IGNORECASE), "<date>"),
    (re.compile(r"^plane +(?:native|python): .*$", re.MULTILINE), "plane  <what this machine has>"),
    (re.compile(r" {2,}"), "  "),
)


def comparable(text: str) -> list[str]:
    """The lines of a transcript with what differs between two runs replaced by a word for it.

    `exec` tells a refusal while the tool runs: before or after what the tool itself says of it. Here it comes last.
    """
    for pattern, instead in _VARIABLE:
        text = pattern.sub(instead, text)
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return sorted(lines, key=lambda line: line.startswith("cloned-proxy: refused "))
