"""`policy import`: which form a file has, and what came of each of its hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.policy.reading.foreign import ForeignList, WantedHost, read_squid, reader_of, scope_of
from cloned_proxy.policy.reading.pack import read_pack
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.yaml_reader import read_document
from cloned_proxy.store.policyfile.policy_edit import EditResult
from cloned_proxy.store.policyfile.policy_entry import Addition, Entry

if TYPE_CHECKING:
    from cloned_proxy.cli.editing.editing import EditOptions

_MAX_BYTES: Final = 256 * 1024 * 1024
"""A HAR file holds what was downloaded."""
_FORMS: Final = (
    "a Cloned policy pack, a Squid dstdomain list, a smokescreen ACL, Claude Code's settings.json or a HAR file"
)


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import."""

    file: Path
    found: ForeignList
    new: tuple[WantedHost, ...]
    present: tuple[WantedHost, ...]
    """The policy said so before."""
    result: EditResult
    summary: str

    def as_data(self, *, dry_run: bool) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "form": self.found.form,
            "added": [_data(each) for each in self.new],
            "present": [_data(each) for each in self.present],
            "refused": [{"entry": entry, "why": why} for entry, why in self.found.refused],
            "written": self.result.changed and not dry_run,
            "version": self.result.version,
        }

    def lines(self) -> Iterator[str]:
        """One line for each entry."""
        for word, group in (("added", self.new), ("present", self.present)):
            for each in group:
                ports = f":{','.join(map(str, each.ports))}" if each.ports else ""
                yield f"{word:<8} {each.action} {each.host}{ports}  {each.scope}"
        for entry, why in self.found.refused:
            yield f"refused  {entry}  {why}"


def read_list(path: Path, tool: str | None) -> ForeignList:
    """The hosts of a file in any of the forms. Raises CommandError, StoreError."""
    raw = read_regular_file(path, limit=_MAX_BYTES, what="list")
    text = _decoded(path, raw)
    document = _structure(path, raw, text)
    if isinstance(document, dict) and "allowlists" in document:
        return _pack(path, document)
    if (read := reader_of(document)) is not None:
        found = read(document, scope_of(tool)) if isinstance(document, dict) else ForeignList("")
    elif isinstance(document, dict | list):
        raise CommandError(f"{path}: this is not {_FORMS}")
    else:
        found = read_squid(text, scope_of(tool))
    if not found.wanted and not found.refused:
        raise CommandError(f"{path}: there is no host in it; it is to be {_FORMS}")
    return found


def import_list(path: Path, tool: str | None, options: EditOptions) -> Imported:
    """Everything that can be taken, in one edit. Raises CommandError, PolicyError, StoreError."""
    from cloned_proxy.cli.place.place import say_if_unserved, workspace_to_write
    from cloned_proxy.store.policyfile.policy_entry import rules_of

    found = read_list(path, tool)
    if not found.wanted:
        raise CommandError(
            f"{path}: nothing of it can be taken: " + "; ".join(f"{entry}: {why}" for entry, why in found.refused)
        )
    place = workspace_to_write(options.workspace)
    service = options.service(place)
    additions = _additions(found)
    summary = f"import {path.name}: {len(found.wanted)} hosts"
    before = _rule_ids(service.path, place.presets)
    result = options.add(service, additions, summary)
    ids = [rule.id for addition in additions for rule in rules_of(addition)]
    in_order = [each for addition in additions for each in _of(found, addition)]
    new = tuple(each for each, rule in zip(in_order, ids, strict=True) if rule not in before)
    present = tuple(each for each, rule in zip(in_order, ids, strict=True) if rule in before)
    say_if_unserved(place)
    return Imported(path, found, new, present, result, summary)


def _decoded(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path}: not UTF-8 text; it is to be {_FORMS}") from error


def _structure(path: Path, raw: bytes, text: str) -> object:
    """The document of a JSON or YAML file; None for lines of text. Raises CommandError."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CommandError(f"{path}: not valid JSON: {error}") from error
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    if not first.rstrip().endswith(":") and ": " not in first and first.strip() != "---":
        return None
    return read_document(raw, str(path)).data


def _pack(path: Path, document: dict[Any, Any]) -> ForeignList:
    pack = read_pack(document)
    if pack.problems:
        raise CommandError("; ".join(f"{path}: {p.path}: {p.message}" for p in pack.problems))
    found = ForeignList("Cloned policy pack")
    found.wanted |= dict.fromkeys(WantedHost(each.scope, "allow", str(each.pattern)) for each in pack.additions)
    return found


def _additions(found: ForeignList) -> list[Addition]:
    lists = dict.fromkeys((each.scope, each.action) for each in found.wanted)
    return [
        Addition(
            tuple(
                Entry(each.host, ports=each.ports)
                for each in found.wanted
                if (each.scope, each.action) == (scope, action)
            ),
            None if scope == GLOBAL_SCOPE else scope,
            action,
        )
        for scope, action in lists
    ]


def _of(found: ForeignList, addition: Addition) -> list[WantedHost]:
    scope = addition.tool or GLOBAL_SCOPE
    return [each for each in found.wanted if (each.scope, each.action) == (scope, addition.action)]


def _rule_ids(path: Path, presets: Any) -> set[str]:
    from cloned_proxy.policy.reading.parse import PolicyError
    from cloned_proxy.store.files.policy_bytes import read_policy_bytes
    from cloned_proxy.store.policyfile.policy_file import parse_bytes

    try:
        return {rule.id for rule in parse_bytes(read_policy_bytes(path), source=str(path), presets=presets).rules}
    except (PolicyError, StoreError):  # none yet, or one that the edit itself will refuse
        return set()


def _data(wanted: WantedHost) -> dict[str, Any]:
    return {"scope": wanted.scope, "action": wanted.action, "host": wanted.host, "ports": list(wanted.ports) or None}
