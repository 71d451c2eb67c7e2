"""The policy file of a new workspace: made from the shipped one, so that every way to a first file ends in the same.

`serve` puts the shipped file there as it is. An edit that finds no file starts with its head: the same comments, mode
and `anonymous`, and none of its rules, because nobody asked for them.
"""

from __future__ import annotations

from pathlib import Path

from cloned_proxy.share import share_path
from cloned_proxy.store.files.list_edit import list_at, remove_entry
from cloned_proxy.store.files.private_file import create_private
from cloned_proxy.store.files.yaml_reader import read_document


def shipped_text() -> str:
    """The file as it is shipped (`config/policy.yaml`)."""
    return share_path("config", "policy.yaml").read_text(encoding="utf-8")


def head_text() -> str:
    """The shipped file without its rules: whoever makes a policy writes only the asked-for ones below it."""
    path, text = Path("config/policy.yaml"), shipped_text()
    document = read_document(text.encode(), str(path)).data
    for action in ("allow", "deny"):
        place = ("global", action)
        for position in reversed(range(len(list_at(document, place)))):
            text = remove_entry(path, text, place, position)
    return text


def create_policy(path: Path, text: str | None = None) -> bool:
    """Makes the policy file (0600) with `text`, else as it is shipped; False, and nothing done, where one is.

    A file or link that is there, valid or not, is somebody's; no reader sees a part of the new one. Raises StoreError.
    """
    return create_private(path, (shipped_text() if text is None else text).encode())
