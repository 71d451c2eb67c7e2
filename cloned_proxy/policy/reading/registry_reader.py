"""`registry` of one entry as a document has it becomes a `Registry`."""

from __future__ import annotations

from typing import Final

from cloned_proxy.policy.reading.document_reader import DocumentReader
from cloned_proxy.policy.reading.documents import RuleDocument
from cloned_proxy.policy.terms.problem import DocumentPath
from cloned_proxy.policy.terms.registry import INDEX_OF, Registry, RegistryKind, parse_index, parse_package_pattern

_NEEDS_PORTS: Final = (
    "a rule with 'registry' says its ports, because the usual ones hold 80, and only opened TLS is filtered; "
    "add 'ports: [443]'"
)


def read_registry(document: DocumentReader, read: RuleDocument, path: DocumentPath) -> Registry | None:
    """What `registry` of the entry at `path` says; what is wrong with it becomes problems of the document."""
    found = read.registry
    if found is None:
        return None
    kind = RegistryKind(found.kind)
    if (read.ports is None or 80 in read.ports) and read.protocols != ["tcp"]:  # noqa: PLR2004  HTTP's port
        document.problem((*path, "registry"), _NEEDS_PORTS)
    allow, index = [], INDEX_OF[kind]
    for position, text in enumerate(found.allow):
        try:
            allow.append(parse_package_pattern(kind, text))
        except ValueError as error:
            document.problem((*path, "registry", "allow", position), str(error))
    if found.index is not None:
        try:
            index = parse_index(found.index)
        except ValueError as error:
            document.problem((*path, "registry", "index"), str(error))
    return Registry(kind, found.min_age, tuple(allow), index)
