"""What a name looks like when data leaves in it, or when it wants to be taken for another.

Signs, not proof. They only say what a person should look at before a rule is made of it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

_RUN: Final = re.compile(r"[a-z0-9]+")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX: Final = re.compile(r"[0-9a-f]{24,}")
_RANDOM_RUN: Final = 16
_TURNS: Final = 3
_LONG_LABEL: Final = 40
_BITS: Final = 3.2
"""Entropy of a run, in bits a character: 32 hexadecimal digits have about 3.7, an English word of 16 letters 3.3."""
_FEW_VOWELS: Final = 0.22
_BURST: Final = 10
_USES: Final = 3.0


def looks_random(label: str) -> bool:
    """Whether one label (or path segment) looks like encoded data rather than a name that somebody chose."""
    text = label.lower()
    if _UUID.fullmatch(text):
        return True
    return any(_random_run(run) for run in _RUN.findall(text)) or (len(text) >= _LONG_LABEL and _entropy(text) > _BITS)


def random_label(name: str) -> str | None:
    """The first label of a host name that looks random; None for none."""
    return next((label for label in name.split(".") if not label.startswith("xn--") and looks_random(label)), None)


def bursts(names: Mapping[str, int]) -> dict[str, list[str]]:
    """Names (with how often each was asked for) that are many under one parent and hardly ever asked for twice.

    By parent, which is the name without its first label.
    """
    below: dict[str, list[str]] = {}
    for name in names:
        parent = name.partition(".")[2]
        if "." in parent:
            below.setdefault(parent, []).append(name)
    return {
        parent: sorted(children)
        for parent, children in below.items()
        if len(children) >= _BURST and _mean(names[child] for child in children) < _USES
    }


def look_alike(name: str, known: AbstractSet[str]) -> str | None:
    """The known host as which a name dresses up: `api.stripe.com` for `api.stripe.com.evil.example`; None for none.

    A reader goes from left to right, DNS from right to left: what stands first says nothing about who owns the name.
    Dashes are read as dots, as in `api-stripe-com.evil.example` and `api.stripe.com-login.evil.example`.
    """
    labels = name.replace("-", ".").split(".")
    prefixes = (".".join(labels[:count]) for count in range(len(labels) - 1, 1, -1))
    return next((prefix for prefix in prefixes if prefix in known and not name.endswith(f".{prefix}")), None)


def _random_run(run: str) -> bool:
    if len(run) < _RANDOM_RUN or _entropy(run) < _BITS:
        return False
    letters = [character for character in run if character.isalpha()]
    vowels = sum(letter in "aeiouy" for letter in letters)
    if len(letters) > _RANDOM_RUN // 2 and vowels < _FEW_VOWELS * len(letters):
        return True
    if not 0 < len(letters) < len(run):
        return False
    # Digits between letters, not a number behind a word.
    turns = sum(run[at].isdigit() != run[at - 1].isdigit() for at in range(1, len(run)))
    return turns > _TURNS or _HEX.fullmatch(run) is not None


def _entropy(text: str) -> float:
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _mean(values: Iterable[int]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
