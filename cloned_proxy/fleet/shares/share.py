"""How much of a limit a replica wants for itself: arithmetic alone."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

_PLENTY: Final = 8
"""A share of more than so many times what is used is made smaller."""


class Part(NamedTuple):
    """One limit of one tool, as one replica has it. All in what the limit counts."""

    limit: int | None
    """What the policy allows all replicas together; None: without bound."""
    used: int
    """In the last window, or open now."""
    held: int
    """The share."""

    def wanted(self, sharers: int) -> int:
        """What the share should be where so many replicas have one: an equal part, and room to double what is used.

        The part is that of one more, so that the next one finds something. A share that is neither too small nor far
        too large is kept, so that a steady load changes nothing.
        """
        if self.limit is None:
            return 0
        equal = math.ceil(self.limit / (sharers + 1))
        roomy = min(self.limit, max(equal, 2 * self.used + 1))
        return roomy if self.held < roomy or self.held > max(equal, _PLENTY * (self.used + 1)) else self.held

    def kept(self, sharers: int, *, gives: bool) -> int:
        """What stays here: half of what is left goes where it is needed (`gives`), and what is far too much goes."""
        if gives:
            return min(self.held, self.used + max(self.held - self.used, 0) // 2)
        return min(self.held, max(self.wanted(sharers), self.used))

    @property
    def short(self) -> bool:
        """Whether less than half of the share is left, and the limit has more."""
        return self.limit is not None and self.held < self.limit and 2 * self.used >= self.held
