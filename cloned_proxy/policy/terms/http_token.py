"""The token of HTTP, of which methods and field names are made (RFC 9110, section 5.6.2)."""

from __future__ import annotations

import re
from typing import Final

TOKEN_CHARACTERS: Final = r"!#$%&'*+\-.^_`|~0-9A-Za-z"  # noqa: S105  no secret
"""For use between the brackets of a regular expression."""
TOKEN: Final = f"[{TOKEN_CHARACTERS}]+".encode("ascii")
"""One token, as a part of a regular expression over bytes."""
MAX_METHOD: Final = 32
"""Characters of the longest method that is taken; the longest registered one has 17."""

_IN_CAPITALS: Final = TOKEN_CHARACTERS.replace("a-z", "")
METHOD: Final = re.compile(rf"[A-Z][{_IN_CAPITALS}]{{0,{MAX_METHOD - 1}}}", re.ASCII)
"""A method that a rule can name: methods are case-sensitive, and all registered ones are in capitals."""
