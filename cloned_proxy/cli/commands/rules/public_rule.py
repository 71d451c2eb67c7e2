"""`allow --public`: a tool gets the public internet, nothing private, within limits; and that is said loudly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from cloned_proxy.cli.editing.editing import EditOptions, actor, check_tool, tell
from cloned_proxy.cli.place.place import say_if_unserved, workspace_to_write
from cloned_proxy.cli.show.errors import CommandError, say
from cloned_proxy.policy.model.model import NO_LIMITS
from cloned_proxy.policy.reading.rule_id import rule_id
from cloned_proxy.policy.terms.rule import PUBLIC_INTERNET
from cloned_proxy.store.files.yaml_edit import Value
from cloned_proxy.store.policyfile.public_edit import UnboundedError, open_public_internet

_SIZED: Final = "bytes_per_hour"
_EXAMPLE: Final = "--limit requests_per_minute=120 --limit bytes_per_hour=200MiB"


def allow_public(texts: Sequence[str], *, tool: str | None, options: EditOptions) -> None:
    """Writes `public: true` and the limits, `NAME=N` each. Raises CommandError, PolicyError or StoreError."""
    if tool is None:
        raise CommandError(
            "--public opens every public host, so it is for one tool and not for everybody; add --tool TOOL"
        )
    check_tool(tool)
    limits = limits_of(texts)
    place = workspace_to_write(options.workspace)
    try:
        result = open_public_internet(
            options.service(place), tool, limits, actor=actor(), why=options.why, dry_run=options.dry_run,
            update_tests=options.update_tests,
        )  # fmt: skip
    except UnboundedError:
        raise CommandError(f"--public opens every public host, so {tool} needs a bound; add {_EXAMPLE}") from None
    tell(result, f"allow THE WHOLE PUBLIC INTERNET for {tool}", dry_run=options.dry_run)
    taken_back = rule_id(tool, PUBLIC_INTERNET, denies=False)
    say(
        f"WARNING: {tool} may send whatever it holds to EVERY public host (ports 80 and 443), where anybody may wait "
        f"for it; its limits are the only bound, and denies win. Back: cloned-proxy remove {taken_back}"
    )
    if not options.dry_run:
        say_if_unserved(place)


def limits_of(texts: Sequence[str]) -> dict[str, Value]:
    """`NAME=N` each, in the words of the file. Raises CommandError."""
    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.policy.terms.units import parse_size

    found: dict[str, Value] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in asdict(NO_LIMITS):
            raise CommandError(f"--limit {text}: no such limit; they are {', '.join(asdict(NO_LIMITS))}: {_EXAMPLE}")
        whole = value.isascii() and value.isdecimal()
        if name == _SIZED and not whole:
            typed(parse_size, value, f"--limit {text}")
        elif not whole or int(value) < 1:
            raise CommandError(f"--limit {text}: write a whole number of at least 1, such as {name}=120")
        found[name] = int(value) if whole else value
    return found
