"""What a tool wrote for a person to read, made harmless: no secrets in it, no control characters, one bounded line.

A net, not a proof: it takes out what looks like a secret by its form. The text is shown to reviewers and kept in the
audit log, where nothing can be taken out later, so a false alarm costs less than a miss.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Final

REDACTED: Final = "[redacted]"
MAX_TEXT: Final = 500
"""Characters that are kept."""

_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----.*?(?:-----END [A-Z0-9 ]{1,40}-----|\Z)", re.DOTALL)
# What a word begins with is looked for at its beginning alone, here and in `_NAMED`: tried at every place of a long
# word, the same search would take seconds, and a tool can have it made as often as it asks.
_USERINFO: Final = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z0-9+.-]+://)[^\s/?#]+@")
_SCHEME: Final = re.compile(r"\b(bearer|basic|digest|negotiate)[ \t]+[^\s,;]+", re.IGNORECASE)
_NAMED: Final = re.compile(
    r"""((?<![\w-])[\w-]*(?:api[_-]?key|apikey|secret|token|passw(?:or)?d|passphrase|pwd|credential|cookie|authorization)
    ["']?\s*[:=]\s*["']?)([^\s"',;]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_KNOWN: Final = re.compile(
    r"""\b(?:
    sk-[A-Za-z0-9_-]{8,} | (?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{8,}      # OpenAI, Anthropic; Stripe
    | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{16,} | glpat-[A-Za-z0-9_-]{16,}
    | xox[abeoprs]-[A-Za-z0-9-]{8,} | hf_[A-Za-z0-9]{16,} | npm_[A-Za-z0-9]{16,} | pypi-[A-Za-z0-9_-]{16,}
    | (?:AKIA|ASIA)[A-Z0-9]{12,} | AIza[A-Za-z0-9_-]{20,} | ya29\.[A-Za-z0-9_-]{8,}
    | AGE-SECRET-KEY-[A-Z0-9]{8,}
    | eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){0,4}                        # a JSON Web Token
    | v1\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}                           # one of our own
    )""",
    re.VERBOSE,
)
_SECRET_OPTION: Final = re.compile(
    r"--?(?:[a-z]+[_-])*(?:api-?key|key|secret|token|pass(?:word|phrase|wd)?|pwd|credentials?|cookie|auth)",
    re.IGNORECASE,
)
_USER_OPTIONS: Final = frozenset({"-u", "-U", "--user", "--proxy-user"})
"""Options of clients such as curl and wget that are followed by a name and a password."""
_PAIR: Final = re.compile(r"([^:\s]+):.+", re.DOTALL)
_USER_PASSWORD: Final = re.compile(r"((?:-[uU]|--(?:proxy-)?user=)[^:\s]+):.+", re.DOTALL)
_LONG: Final = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
_RUN: Final = re.compile(r"[A-Za-z0-9_+]{24,}={0,2}")
_RANDOM_BITS: Final = 3.2
"""Entropy of a character from which a long word is taken for random; English words have about 2.5 to 3."""


def bounded(text: str, most: int = MAX_TEXT) -> str:
    """The text as one printable line of at most `most` characters, with nothing taken out.

    A word that does not fit is left out whole: half of a secret would not look like one to `redact`.
    """
    line = _one_line(text)
    return line if len(line) <= most else f"{line[: most - 1].rpartition(' ')[0]} …".lstrip()


def redact_command(words: Sequence[str]) -> str:
    """A command line as one line of at most `MAX_TEXT` characters, for the record.

    Beside what `redact` finds, the word behind an option such as `--token` goes, and the password in `-u name:password`
    as well.
    """
    kept: list[str] = []
    before = ""
    for word in words:
        kept.append(_argument(word, before))
        before = word
        if sum(map(len, kept)) > MAX_TEXT:
            break  # the rest would be cut off
    return redact(" ".join(kept))


def hide_arguments(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a command line for its own owner to review, with what looks like a secret as `REDACTED`.

    Less is taken out than for the record, so that a path or the name of a package stays readable: a long word counts
    only where it is one run of letters and digits that looks random.
    """
    return tuple(_hidden(word, before) for word, before in zip(words, ("", *words), strict=False))


def _hidden(word: str, before: str) -> str:
    if word.startswith("$"):  # a variable's name
        return word
    option, equals, value = word.partition("=")
    if equals and _SECRET_OPTION.fullmatch(option) and not value.startswith("$"):
        return f"{option}={REDACTED}"
    if _SECRET_OPTION.fullmatch(before) and not word.startswith("-"):
        return REDACTED
    if user := _USER_PASSWORD.fullmatch(word) or (_PAIR.fullmatch(word) if before in _USER_OPTIONS else None):
        return f"{user[1]}:{REDACTED}"
    if _RUN.fullmatch(value or word) and _looks_random(value or word):
        return f"{option}={REDACTED}" if equals else REDACTED
    return _by_form(word)


def _argument(word: str, before: str) -> str:
    """One word of a command line that stands behind another."""
    if _SECRET_OPTION.fullmatch(before):
        return REDACTED
    user = _USER_PASSWORD.fullmatch(word) or (_PAIR.fullmatch(word) if before in _USER_OPTIONS else None)
    return f"{user[1]}:{REDACTED}" if user is not None else shlex.quote(redact(word))


def redact(text: str) -> str:
    """The text as one line of at most `MAX_TEXT` characters, with what looks like a secret replaced."""
    text = _by_form(_one_line(_PEM.sub(REDACTED, text)))
    text = _LONG.sub(lambda match: REDACTED if _looks_random(match[0]) else match[0], text)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _by_form(text: str) -> str:
    text = _PEM.sub(REDACTED, text)
    text = _USERINFO.sub(rf"\1{REDACTED}@", text)
    text = _KNOWN.sub(REDACTED, text)
    text = _SCHEME.sub(rf"\1 {REDACTED}", text)
    return _NAMED.sub(rf"\1{REDACTED}", text)


def _one_line(text: str) -> str:
    # `isprintable` is false for control characters, line and paragraph separators, and the marks that turn the
    # direction of writing round: none of them may reach a terminal or a page.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _looks_random(word: str) -> bool:
    if not any(c.isdigit() for c in word) and (word.islower() or word.isupper()):
        return False
    counts = Counter(word)
    entropy = -sum(n / len(word) * math.log2(n / len(word)) for n in counts.values())
    return entropy >= _RANDOM_BITS
