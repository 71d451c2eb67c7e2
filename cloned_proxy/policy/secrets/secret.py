"""Names of secrets, and the `${vault:name}` references to them in what a rule injects: pure.

The values stay elsewhere. What is read here is text of the policy file, which anybody may see who may see the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}(?:\.[a-z0-9][a-z0-9_-]{0,31}){0,3}", re.ASCII)
_REFERENCE: Final = re.compile(r"\$\{vault:([^${}]*)\}")
_NEVER_INJECTED: Final = frozenset(
    {
        "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host",
        "keep-alive", "range", "te", "trailer", "transfer-encoding", "upgrade", "via",
    }
)  # fmt: skip
"""Fields that frame or route the message, or belong to what its body is."""


def valid_secret_name(text: str) -> bool:
    """Whether the text can name a secret: lower-case words joined by dots, such as `llm.api_key`."""
    return _NAME.fullmatch(text) is not None


def check_secret_value(value: str) -> None:
    """Raises ValueError, which never quotes the value, for one that no header could carry (RFC 9110, section 5.5)."""
    if not value:
        raise ValueError("the value is empty; a secret has at least one character")
    if not (value.isascii() and value.isprintable()):
        raise ValueError("the value is not one line of printable ASCII, and no header may carry it; give it without")
    if value != value.strip(" "):
        raise ValueError("the value begins or ends with a blank, which a header cannot carry; give it without")
    if len(value) > MAX_VALUE:
        raise ValueError(f"the value has {len(value)} characters, more than {MAX_VALUE}; servers refuse such headers")


MAX_VALUE: Final = 8192
"""Characters of one secret: what common servers take as one header field."""


def check_injected_name(name: str) -> None:
    """Raises ValueError for a header that a rule may not inject."""
    lowered = name.lower()
    if lowered in _NEVER_INJECTED or lowered.startswith(("proxy-", "x-cloned-")):
        raise ValueError(f"{name!r} frames the message or belongs to the proxy; inject one such as Authorization")


def check_template(text: str) -> None:
    """Raises ValueError for a `$` that begins no reference: a typing error must not be sent as the secret."""
    for name in references(text):
        if not valid_secret_name(name):
            raise ValueError(f"{name!r} is not the name of a secret; write one such as ${{vault:llm.api_key}}")
    if "${" in _REFERENCE.sub("", text):
        raise ValueError("'${' begins a reference, and this is none; write ${vault:name} such as ${vault:llm.api_key}")


def references(text: str) -> tuple[str, ...]:
    """The names that the text refers to, each once, in order."""
    return tuple(dict.fromkeys(_REFERENCE.findall(text)))


def filled(text: str, value_of: Callable[[str], str]) -> str:
    """The text with each reference replaced by its value."""
    return _REFERENCE.sub(lambda match: value_of(match[1]), text)
