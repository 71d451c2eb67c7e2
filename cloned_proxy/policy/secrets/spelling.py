"""How a secret is spelled on the wire, and which secrets are worth looking for: pure."""

from __future__ import annotations

import base64
import json
from typing import Final
from urllib.parse import quote, quote_plus

MIN_WATCHED: Final = 12
"""Characters. A shorter secret, or one of few different characters, turns up in ordinary requests by chance."""
_MIN_DIFFERENT: Final = 8
_MIN_WORDS: Final = 20
_WORDS: Final = frozenset("abcdefghijklmnopqrstuvwxyz .,:/_-")


def why_not_watched(secret: str) -> str:
    """Why requests are not searched for this secret: it could be a part of one that has nothing to do with it.

    "" for one that is watched. The text does not quote the secret.
    """
    if len(secret) < MIN_WATCHED:
        return f"it has fewer than {MIN_WATCHED} characters"
    if len(set(secret)) < _MIN_DIFFERENT:
        return f"it has fewer than {_MIN_DIFFERENT} different characters"
    if len(secret) < _MIN_WORDS and _WORDS.issuperset(secret):
        return f"it has fewer than {_MIN_WORDS} characters and is made of lower-case letters alone"
    return ""


def spellings(secret: str) -> set[bytes]:
    """The secret as it is, as JSON and percent-encoding (RFC 3986; forms) write it, and in base64.

    In base64 it is found alone and inside of something longer, such as `user:secret`. Raises UnicodeEncodeError for a
    secret that is not ASCII.
    """
    text = json.dumps(secret)[1:-1]
    texts = {secret, text, text.replace("/", "\\/")}
    for escaped in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        texts |= {escaped, _lower_escapes(escaped)}
    return {each.encode("ascii") for each in texts} | _base64_spellings(secret.encode("ascii"))


def _lower_escapes(text: str) -> str:
    head, *rest = text.split("%")
    return "%".join([head, *(part[:2].lower() + part[2:] for part in rest)])


def _base64_spellings(raw: bytes) -> set[bytes]:
    """In all three positions that it can have in a longer text, without the characters that its neighbours decide."""
    found = set()
    for before in range(3):
        coded = base64.b64encode(bytes(before) + raw)
        inner = coded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return found
