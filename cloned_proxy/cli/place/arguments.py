"""What a person typed, read by the rule that holds for it everywhere."""

from __future__ import annotations

from collections.abc import Callable

from cloned_proxy.cli.show.errors import CommandError


def typed[T](read: Callable[[str], T], text: str, option: str = "") -> T:
    """`read(text)`. Raises CommandError with what `read` finds wrong, which a ValueError says, behind the option."""
    try:
        return read(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}" if option else str(error)) from error
