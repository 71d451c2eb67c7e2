"""The options of `allow` that say how old a package must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.store.files.yaml_edit import Value

_USUAL_AGE: Final = "7d"


def registry_value(
    kind: str | None, min_age: str | None, packages: Sequence[str], index: str | None
) -> dict[str, Value] | None:
    """`registry` of the entry in the words of the file; None without `--registry`. Raises CommandError."""
    if kind is None:
        if min_age is not None or packages or index is not None:
            raise CommandError(
                "--min-age, --package and --index say more about a --registry: add --registry npm or pypi"
            )
        return None
    value: dict[str, Value] = {"kind": kind, "min_age": min_age or _USUAL_AGE}
    if packages:
        value["allow"] = list(packages)
    if index is not None:
        value["index"] = index
    return value
