"""What is cut is one version everywhere: in the program, in the images that are named, and in CHANGELOG."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

import pytest

from cloned_proxy import __version__
from tests.packaging.conftest import ROOT

pytestmark = pytest.mark.checkout

NAMED: Final = ("compose/compose.yaml", "compose/Dockerfile", "deploy/kubernetes/base/deployment.yaml")


@pytest.mark.parametrize("place", NAMED)
def test_the_image_that_is_named_is_the_one_of_this_version(place: str) -> None:
    found = re.findall(r"\bcloned-proxy:(\d[\w.]*)", (ROOT / place).read_text(encoding="utf-8"))
    assert found
    assert set(found) == {__version__}


def test_the_changelog_has_this_version_below_what_is_not_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## \[(.+)\](?: - (\S+))?$", text, re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == __version__
    days = [date.fromisoformat(day) for _, day in heads[1:]]
    assert days == sorted(days, reverse=True)
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[2:]:
        kinds = re.findall(r"^### (.+)$", part, re.MULTILINE)
        assert len(kinds) == len(set(kinds)), "a merge has made two of one heading"
        assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
