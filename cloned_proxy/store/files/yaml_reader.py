"""A strict YAML reader: plain data and line numbers, and none of YAML's surprises.

Built from the parser's events rather than its loader. An event is a few microseconds of work, so a large file that is
read in a thread shares the interpreter with the event loop; and everything that makes YAML dangerous (anchors, merge
keys, tags) is an event that can be refused before anything is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from cloned_proxy.policy.terms.problem import DocumentPath, Problem
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.policy_bytes import MAX_BYTES
from cloned_proxy.store.files.yaml_slips import slip_of

MAX_DEPTH: Final = 64
MAX_NODES: Final = 500_000
"""A policy of 20,000 hosts has about 20,000; the bound keeps 16 MiB of `[[],[],…` from taking gigabytes."""

# libyaml where it was built in; the pure-Python parser gives the same events, eight times slower.
_PARSER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVERS: Final = yaml.SafeLoader.yaml_implicit_resolvers
_CONSTRUCTOR: Final = yaml.constructor.SafeConstructor()
_PREFIX: Final = "tag:yaml.org,2002:"
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
"""YAML 1.1 also reads 0x1f, 0b1, 017, 1_000 and 1:30 as whole numbers: too many ways to mean another one."""
_CONSTRUCT: Final = {
    _PREFIX + "null": _CONSTRUCTOR.construct_yaml_null,
    _PREFIX + "bool": _CONSTRUCTOR.construct_yaml_bool,
    _PREFIX + "int": _CONSTRUCTOR.construct_yaml_int,
    _PREFIX + "float": _CONSTRUCTOR.construct_yaml_float,
    _PREFIX + "timestamp": _CONSTRUCTOR.construct_yaml_timestamp,
}


class DocumentError(StoreError):
    """A file that is not acceptable YAML: `<source>:<line>: <what is wrong and what to write instead>`."""

    def __init__(self, source: str, line: int, message: str, shown: str = "") -> None:
        super().__init__(f"{source}:{line}: {message}")
        self.source = source
        self.line = line
        """1-based."""
        self.message = message
        self.problems = (Problem("(file)", line, message),)
        """As a PolicyError has them."""
        self.shown = shown
        """The line and a caret below the place, for a terminal; "" where the line says enough."""


@dataclass(frozen=True, slots=True)
class Document:
    data: object
    """dict, list, str, int, float, bool, None, date and datetime; None for an empty file."""
    lines: dict[DocumentPath, int]
    """The line (1-based) of each list item, and of the key of each mapping value."""


def read_document(raw: bytes, source: str) -> Document:
    """Reads one document of at most 16 MiB of UTF-8. Raises DocumentError."""
    text = _decode(raw, source)
    try:
        return _Builder(source).build(yaml.parse(text, Loader=_PARSER))
    except yaml.MarkedYAMLError as error:
        slip = slip_of(text, error)
        raise DocumentError(source, slip.line, slip.message, slip.shown(text)) from error
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", None) or str(error).partition("\n")[0]
        position = getattr(error, "position", 0) or 0
        line = text.count("\n", 0, position) + 1
        raise DocumentError(source, line, f"not valid YAML: {reason}; is it a text file?") from error


def reads_as_text(value: str) -> bool:
    """Whether the plain scalar `value` is read back as that string, not as `true`, a number or a date."""
    return _resolve(value) is None


def _decode(raw: bytes, source: str) -> str:
    if len(raw) > MAX_BYTES:
        raise DocumentError(source, 1, f"{len(raw)} bytes are more than {MAX_BYTES}; split or shorten the file")
    if (nul := raw.find(b"\0")) >= 0:
        raise DocumentError(source, raw.count(b"\n", 0, nul) + 1, "binary data; write it as UTF-8 text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            source, line, f"not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from error


def _resolve(value: str) -> str | None:
    """The YAML 1.1 tag of a plain scalar, None for a string."""
    for tag, pattern in _RESOLVERS.get(value[:1], ()):
        if pattern.match(value):
            return str(tag)
    return None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


class _Frame:
    """One open mapping or list."""

    __slots__ = ("container", "key", "key_line", "path", "waiting_for_key")

    def __init__(self, container: dict[str, object] | list[object], path: DocumentPath) -> None:
        self.container = container
        self.path = path
        self.key = ""
        self.key_line = 0
        self.waiting_for_key = isinstance(container, dict)


class _Builder:
    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: dict[DocumentPath, int] = {}
        self._stack: list[_Frame] = []
        self._root: object = None
        self._nodes = 0
        self._documents = 0

    def build(self, events: Iterator[yaml.Event]) -> Document:
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._stack.pop()
            elif isinstance(event, yaml.AliasEvent):
                raise self._error(event, f"aliases (*{event.anchor}) are not allowed; write the value out, or quote it")
            elif isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise self._error(event, "a second document; keep one, without `---` between parts")
        return Document(self._root, self._lines)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        self._check(event)
        frame = self._stack[-1] if self._stack else None
        plain = event.implicit[0]
        tag = _resolve(event.value) if plain else None
        if frame is not None and frame.waiting_for_key:
            self._key(frame, event, tag)
            return
        self._place(event, event.value if tag is None else self._convert(event, tag))

    def _key(self, frame: _Frame, event: yaml.ScalarEvent, tag: str | None) -> None:
        key = event.value
        if tag == _PREFIX + "merge":
            raise self._error(event, "merge keys (<<) are not allowed; write the keys out")
        if tag is not None and tag != _PREFIX + "value":
            kind = tag.removeprefix(_PREFIX)
            raise self._error(event, f"the key {key or '(empty)'} reads as a {kind}, not as text; quote it: '{key}'")
        if key in frame.container:
            raise self._error(event, f"the key {key!r} is there twice; keep one")
        frame.key = key
        frame.key_line = _line(event)
        frame.waiting_for_key = False

    def _convert(self, event: yaml.ScalarEvent, tag: str) -> object:
        if tag == _PREFIX + "int" and _DECIMAL.fullmatch(event.value) is None:
            raise self._error(
                event, f"{event.value[:40]!r} is no decimal number; write digits alone, or quote it if it is text"
            )
        construct = _CONSTRUCT.get(tag)
        if construct is None:  # `=` and `<<` as values are text
            return event.value
        try:
            value: object = construct(yaml.ScalarNode(tag, event.value))
        except (ValueError, OverflowError) as error:
            kind = tag.removeprefix(_PREFIX)
            raise self._error(
                event, f"{event.value[:40]!r} is not a valid {kind} ({error}); quote it if it is text"
            ) from error
        return value

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        self._check(event)
        if self._stack and self._stack[-1].waiting_for_key:
            raise self._error(event, "a list or mapping as a key; keys are text")
        if len(self._stack) >= MAX_DEPTH:
            raise self._error(event, f"more than {MAX_DEPTH} levels deep; flatten it")
        container: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._stack.append(_Frame(container, self._place(event, container)))

    def _place(self, event: yaml.Event, value: object) -> DocumentPath:
        """Puts a value where the parser stands, and returns its path."""
        if not self._stack:
            self._root = value
            self._lines[()] = _line(event)
            return ()
        frame = self._stack[-1]
        if isinstance(frame.container, dict):
            path = (*frame.path, frame.key)
            frame.container[frame.key] = value
            # The key's line: where the value is a block, a person looks for the key above it.
            self._lines[path] = frame.key_line
            frame.waiting_for_key = True
        else:
            path = (*frame.path, len(frame.container))
            frame.container.append(value)
            self._lines[path] = _line(event)
        return path

    def _check(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(event, f"more than {MAX_NODES} values; shorten the file")
        if event.anchor is not None:
            raise self._error(event, f"anchors (&{event.anchor}) are not allowed; write the value out, or quote it")
        if event.tag is not None:
            raise self._error(event, f"tags ({event.tag}) are not allowed; write the plain value, or quote it")

    def _error(self, event: yaml.Event, message: str) -> DocumentError:
        return DocumentError(self._source, _line(event), message)
