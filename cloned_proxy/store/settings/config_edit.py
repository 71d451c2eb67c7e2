"""Changing one setting of config.yaml, with its comments and order kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.lock import locked
from cloned_proxy.store.files.policy_bytes import MAX_BYTES
from cloned_proxy.store.settings.config import load_config


def set_egress_proxy(path: Path, url: str | None) -> None:
    """Writes `egress_proxy`, or takes it out. Raises StoreError, for a file that is not valid as it stands too."""

    def change(document: CommentedMap) -> None:
        if url is None:
            document.pop("egress_proxy", None)
        else:
            document["egress_proxy"] = url

    _edit(path, change)


def set_tool_image(path: Path, tool: str, image: str) -> None:
    """Writes `sandbox: {images: {TOOL: IMAGE}}`. Raises StoreError as above."""

    def change(document: CommentedMap) -> None:
        section = document
        for name in ("sandbox", "images"):
            if section.get(name) is None:
                section[name] = CommentedMap()
            section = section[name]
        section[tool] = image

    _edit(path, change)


def set_fleet(path: Path, fleet: Mapping[str, object]) -> None:
    """Writes `fleet:`. Raises StoreError as above."""

    def change(document: CommentedMap) -> None:
        document["fleet"] = CommentedMap(fleet)

    _edit(path, change)


def _edit(path: Path, change: Callable[[CommentedMap], None]) -> None:
    with locked(path):
        load_config(path)
        yaml = YAML()
        yaml.preserve_quotes = True
        document: CommentedMap | None = None
        if path.exists():
            document = yaml.load(read_regular_file(path, limit=MAX_BYTES, what="config file").decode())
        if document is None:
            document = CommentedMap()
        change(document)
        text = io.StringIO()
        if document:
            yaml.dump(document, text)
        write_atomically(path, text.getvalue().encode())
