"""`make reference`: writes the pages of docs/ that say what the code says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from handbook.api_page import api_page
from handbook.licences_page import licences_page
from handbook.metrics_page import metrics_page
from handbook.policy_page import policy_page
from handbook.reasons_page import reasons_page
from handbook.settings_page import settings_page
from handbook.site import ROOT
from handbook.threat_page import threat_page

PAGES: Final[dict[str, Callable[[], str]]] = {
    "api.md": api_page,
    "licences.md": licences_page,
    "metrics.md": metrics_page,
    "policy-reference.md": policy_page,
    "reasons.md": reasons_page,
    "settings.md": settings_page,
    "threat-model.md": threat_page,
}


def main() -> None:
    for name, write in PAGES.items():
        path = ROOT / "docs" / name
        text = write()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"docs/{name}: written")


if __name__ == "__main__":
    main()
