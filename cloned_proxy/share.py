"""Where the files that others read are: root folders in a checkout, `cloned_proxy/_share/` in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent


def share_path(*parts: str) -> Path:
    """The path of an asset such as `share_path("config", "policy.yaml")`.

    An installed wheel carries the root folders in `_share`; an editable install has none and uses the checkout.
    Raises FileNotFoundError with the places that were tried: a broken install must not be mistaken for an empty file.
    """
    candidates = [root.joinpath(*parts) for root in (_PACKAGE / "_share", _PACKAGE.parent)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    tried = " and ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(
        f"{'/'.join(parts)} is not part of this installation (looked at {tried}); reinstall cloned-proxy"
    )
