"""docs/settings.md: `config.yaml`, from the models that read it."""

from __future__ import annotations

from typing import Final

from cloned_proxy.store.settings.config import Config
from handbook.reference import documents_of, page, sections
from handbook.site import ROOT

_KINDS: Final = {"LlmSettings.gpus": "whole number from 1 to 64, `all` or `devices`"}


def settings_page() -> str:
    """The page as it should be."""
    found = list(sections(Config, documents_of(ROOT / "handbook" / "config.yaml"), "(the file)", "", _KINDS, set()))
    return page("settings", found)
