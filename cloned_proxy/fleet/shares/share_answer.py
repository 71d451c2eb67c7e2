"""What the script that hands out shares answers (`share_script`), read strictly: the store may say anything."""

from __future__ import annotations

from typing import Any, Final

from cloned_proxy.fleet.signed.errors import StoreAwayError

_ANSWERED: Final = 5
"""Values of an answer: the share of each of three limits, how many have one, and the name of the data."""


def read_answer(answer: Any) -> tuple[list[int], int, Any]:
    """The share, how many have one, and the name of the data. Raises StoreAwayError for what the script never answers.

    One number more would be written behind the share, where its end stands.
    """
    if not isinstance(answer, list) or len(answer) != _ANSWERED or not all(type(each) is int for each in answer[:-1]):
        raise StoreAwayError("the store answers what no share script does")
    *granted, found, data = answer
    return granted, found, data
