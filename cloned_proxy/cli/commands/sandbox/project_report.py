"""What a run changed in the project, told to the person who started it."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Self

from cloned_proxy.cli.show.errors import say
from cloned_proxy.runner.project.changes import GuardedKind, Letter

if TYPE_CHECKING:
    from cloned_proxy.runner.project.aftermath import Aftermath
    from cloned_proxy.runner.project.changes import Change
    from cloned_proxy.runner.project.snapshot import FileChange

_SHOWN: Final = 10
_LINES: Final = 2000


class Reports:
    """Around a run: told when the block has ended, however it has, and the terminal is the person's again.

    On stderr: the tool's own output may be on its way to another program. Nothing it wrote drives the terminal.
    """

    def __init__(self) -> None:
        self._kept: list[Aftermath] = []

    def add(self, aftermath: Aftermath) -> None:
        self._kept.append(aftermath)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for aftermath in self._kept:
            for line in lines_of(aftermath):
                say(line)


def lines_of(aftermath: Aftermath) -> Iterator[str]:
    """For people; none when there is nothing to say."""
    where = aftermath.source
    if aftermath.problem:
        yield f"cloned-proxy: {where} cannot be looked through after the run: {aftermath.problem}"
        return
    if aftermath.files is not None:
        yield from _difference(aftermath.files)
    alarming = [change for change, kind in aftermath.noteworthy if kind is not GuardedKind.RECIPE]
    if alarming:
        yield f"cloned-proxy: in {where} the tool changed what git, editors, shells or agents act upon; look first:"
        shown = _topmost(alarming)
        yield from (f"  {change.letter} {change.path}" for change in shown[:_SHOWN])
        if len(shown) > _SHOWN:
            yield f"  and {len(shown) - _SHOWN} more"
        added = [shlex.quote(str(where / change.path)) for change in shown[:_SHOWN] if change.letter is Letter.ADDED]
        if added:
            yield f"  to remove what is new: rm -r -- {' '.join(added)}"
    recipes = [f"{change.letter} {change.path}" for change, kind in aftermath.noteworthy if kind is GuardedKind.RECIPE]
    if recipes:
        yield f"cloned-proxy: changed, and run by whoever builds, tests or installs: {_some(recipes)}"
    if aftermath.doors:
        yield f"cloned-proxy: sockets or FIFOs were left, which are hidden from the next tool: {_some(aftermath.doors)}"


def _topmost(changes: Iterable[Change]) -> list[Change]:
    """The changes without those inside of a directory that is new, or gone, as a whole."""
    kept: list[Change] = []
    whole = ""
    for change in sorted(changes):
        if whole and change.path.startswith(whole):
            continue
        whole = "" if change.letter is Letter.MODIFIED else f"{change.path}/"
        kept.append(change)
    return kept


def _some(words: Iterable[str]) -> str:
    words = list(words)
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def _difference(files: tuple[FileChange, ...]) -> Iterator[str]:
    if not files:
        yield "cloned-proxy: the run changed no file"
        return
    yield f"cloned-proxy: the run changed {len(files)} {'path' if len(files) == 1 else 'paths'}:"
    room = _LINES
    for file in files:
        yield f"{file.letter} {file.path}  {_sizes(file)}"
        yield from file.lines[: max(0, room)]
        room -= len(file.lines)
        if file.note or room < 0:
            yield f"  ({file.note or 'no more differences are shown'})"


def _sizes(file: FileChange) -> str:
    if file.count > 1 or (file.before is None and file.after is None):
        return f"{file.count} {'file' if file.count == 1 else 'files'}"
    if file.before is None or file.after is None:
        return f"{file.after if file.before is None else file.before} bytes"
    sizes = f"{file.before} -> {file.after} bytes" if file.before != file.after else f"{file.after} bytes"
    return sizes if file.modes is None else f"{sizes}, {' -> '.join(map(stat.filemode, file.modes))}"
