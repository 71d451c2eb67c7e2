"""From what was recorded to the narrowest rules that cover it, for a person to review.

Nothing here opens anything. What no rule may allow is refused with the reason, and what looks like data leaving in
names is set apart: a rule made of it would be a hole made to measure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.hints.offer import why_not_offered
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.paths.path_shape import path_globs, plain_path
from cloned_proxy.policy.paths.suspicion import bursts, look_alike, random_label
from cloned_proxy.policy.terms.address import AddressClass, classify
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.host import HostError, is_public_suffix, parse_host
from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.policy.terms.http_token import METHOD
from cloned_proxy.policy.terms.reasons import MENDABLE, REASONS
from cloned_proxy.policy.terms.vocabulary import DEFAULT_PORTS, Reason
from cloned_proxy.store.audit.tally import OTHER, RecordedCall
from cloned_proxy.store.policyfile.policy_entry import Addition, Entry

_INTERNAL: Final = frozenset(
    {"localhost", "local", "internal", "localdomain", "lan", "home", "corp", "intranet", "arpa"}
)
"""Last labels of names that only a local network knows; RFC 6761, RFC 6762, RFC 8375, ICANN's `.internal`."""
_NOT_SUGGESTED: Final[Mapping[str, str]] = {reason: row.not_suggested for reason, row in REASONS.items()}
"""Why nothing is suggested for calls with this reason. The log of a newer version may have others."""
_SIBLINGS: Final = 5
_OUTER: Final = ("", "CONNECT")
"""Methods of calls whose inside nobody saw."""


@dataclass(frozen=True, slots=True)
class CallCounts:
    """How often calls were recorded, and how they ended."""

    passed: int
    """In report mode."""
    denied: int
    first: float
    """Unix seconds."""
    last: float


@dataclass(frozen=True, slots=True)
class Suggested:
    tool: str | None
    """None: the global rules."""
    entry: Entry
    seen: CallCounts


@dataclass(frozen=True, slots=True)
class Withheld:
    """What is not suggested, and why."""

    tool: str | None
    what: str
    """`host:port`, or the parent of many names."""
    why: str
    seen: CallCounts


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A pattern that would cover several suggested names at once, and names that nobody asked for yet."""

    tool: str | None
    pattern: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suggestion:
    entries: tuple[Suggested, ...]
    refused: tuple[Withheld, ...]
    suspicious: tuple[Withheld, ...]
    """What looks like exfiltration."""
    wildcards: tuple[Wildcard, ...]

    @property
    def additions(self) -> list[Addition]:
        """What the edit service would add."""
        by_tool: dict[str | None, list[Entry]] = defaultdict(list)
        for suggested in self.entries:
            by_tool[suggested.tool].append(suggested.entry)
        return [Addition(tuple(entries), tool) for tool, entries in by_tool.items()]


def suggest(calls: Iterable[RecordedCall], policy: Policy, now: float) -> Suggestion:
    """The narrowest rules for the recorded calls that the policy as it is does not allow."""
    wanted: dict[tuple[str | None, str], list[RecordedCall]] = defaultdict(list)
    refused: dict[tuple[str | None, str, str], list[RecordedCall]] = defaultdict(list)
    closed: set[tuple[str | None, str]] = set()
    for call in calls:
        why = _why_not(call, policy, now)
        if why is None:
            wanted[call.tool, call.host].append(call)
        elif why:
            refused[call.tool, _place(call), why].append(call)
        if call.reason == Reason.ADDRESS_NOT_ALLOWED:
            closed.add((call.tool, call.host))
    # A name that ever resolved to an internal address is not suggested: it is rebound, or its DNS is split-horizon.
    for place in closed & wanted.keys():
        del wanted[place]
    suspicious = [*_dressed_up(wanted, policy), *_set_apart(wanted)]
    entries = [
        Suggested(tool, entry, _seen(covered))
        for (tool, host), calls_of_host in sorted(wanted.items(), key=lambda item: (item[0][0] or "", item[0][1]))
        for entry, covered in _entries(host, calls_of_host)
    ]
    return Suggestion(
        tuple(entries),
        tuple(Withheld(tool, what, why, _seen(each)) for (tool, what, why), each in sorted(refused.items(), key=str)),
        tuple(suspicious),
        tuple(_wildcards(entries)),
    )


def _why_not(call: RecordedCall, policy: Policy, now: float) -> str | None:
    """Why no rule is suggested for a call: "" when there is nothing to say about it; None when one is."""
    if call.verdict == "allow":
        return ""
    why = _NOT_SUGGESTED.get(call.reason) or _why_no_host(call)
    if why is not None:
        return why
    inner = call.method not in _OUTER
    request = Request(call.host, call.port, call.method if inner else None, call.path if inner else None)
    reason = decide(policy, ANONYMOUS if call.tool is None else Principal(call.tool), request, now).reason
    if reason in MENDABLE and not _NOT_SUGGESTED[reason]:
        return _why_no_path(call) if inner else None
    return _NOT_SUGGESTED[reason]


def _why_no_host(call: RecordedCall) -> str | None:
    if call.host == OTHER and call.port == 0:
        return "more different calls than the roll-up keeps in an hour; `cloned-proxy log` has each"
    try:
        host = parse_host(call.host)
    except HostError as error:
        return "an address in a spelling that is never allowed" if error.reason is Reason.IP_LITERAL else ""
    if never := why_not_offered(host):
        return never
    if host.address is None:
        return _why_no_name(host.text)
    kind = classify(host.address)
    if kind is AddressClass.PUBLIC:
        return None
    return f"not a public address ({kind.value}); if it is yours, allow it by hand"


def _why_no_name(name: str) -> str | None:
    if "." not in name or name.rpartition(".")[2] in _INTERNAL:
        return "a name of a local network; if it is yours, allow it by hand with `addresses: [private]`"
    return "strangers register names under it: a public suffix is nobody's host" if is_public_suffix(name) else None


def _why_no_path(call: RecordedCall) -> str | None:
    if call.path != OTHER and not plain_path(call.path):
        return "a path that can be read in two ways, or has a star in it; no rule can name it"
    if call.method != OTHER and not METHOD.fullmatch(call.method):
        return "a method that no rule can name"
    return None


def _dressed_up(wanted: dict[tuple[str | None, str], list[RecordedCall]], policy: Policy) -> list[Withheld]:
    """Takes out of `wanted` the names that begin with the whole name of a host that is allowed or wanted, too."""
    known = {rule.pattern.value for rule in policy.rules if not rule.denies} | {host for _, host in wanted}
    found: list[Withheld] = []
    for tool, host in sorted(wanted, key=str):
        if (original := look_alike(host, known)) is not None:
            why = f"it begins like {original} and belongs to somebody else; if it is yours, allow it by hand"
            found.append(Withheld(tool, host, why, _taken(wanted, tool, [host])))
    return found


def _set_apart(wanted: dict[tuple[str | None, str], list[RecordedCall]]) -> list[Withheld]:
    """Takes out of `wanted` what looks like data leaving in names."""
    found: list[Withheld] = []
    for tool in sorted({tool for tool, _ in wanted}, key=str):
        names = {host: sum(call.count for call in calls) for (of, host), calls in wanted.items() if of == tool}
        random: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if random_label(name) is not None:
                random[name.partition(".")[2]].append(name)
        for parent, children in sorted(random.items()):
            why = f"long random labels: {len(children)} such as {random_label(children[0])}"
            found.append(Withheld(tool, f"below {parent}", why, _taken(wanted, tool, children)))
        left = {name: count for name, count in names.items() if (tool, name) in wanted}
        for parent, children in sorted(bursts(left).items()):
            why = f"a burst of {len(children)} names, hardly one asked for twice: {', '.join(children[:3])}, …"
            found.append(Withheld(tool, f"below {parent}", why, _taken(wanted, tool, children)))
    return found


def _taken(
    wanted: dict[tuple[str | None, str], list[RecordedCall]], tool: str | None, hosts: Iterable[str]
) -> CallCounts:
    return _seen([call for host in hosts for call in wanted.pop((tool, host))])


def _entries(host: str, calls: Sequence[RecordedCall]) -> Iterable[tuple[Entry, list[RecordedCall]]]:
    """The narrowest entries for one host, each with the calls that it covers.

    Where the inside of a flow was seen, methods and paths are named; a tunnel is known by its port alone, and naming a
    method for it would have its TLS opened.
    """
    inner: dict[int, list[RecordedCall]] = defaultdict(list)
    for call in calls:
        if call.method not in _OUTER:
            inner[call.port].append(call)
    tunnels = [call for call in calls if call.method in _OUTER]
    closed = [call for call in tunnels if call.port not in inner]
    if closed:
        yield Entry(host, _ports({call.port for call in closed})), closed
    alike: dict[tuple[tuple[str, ...], tuple[str, ...]], set[int]] = defaultdict(set)
    for port, seen in inner.items():
        for methods, paths in _narrowed(seen):
            alike[methods, paths].add(port)
    for (methods, paths), ports in alike.items():
        covered = [call for call in calls if call.port in ports and call.method in (*methods, *_OUTER)]
        yield Entry(host, _ports(ports), methods, paths), covered or list(calls)


def _narrowed(calls: Iterable[RecordedCall]) -> Iterable[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Methods with the paths they were used on; methods with the same paths together."""
    paths: dict[str, set[str]] = defaultdict(set)
    for call in calls:
        paths[call.method].add(call.path)
    if OTHER in paths:  # over the bounds of the roll-up: neither is known any more
        return [((), ())]
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for method, of_method in sorted(paths.items()):
        alike[() if OTHER in of_method else path_globs(of_method)].append(method)
    return [(tuple(methods), globs) for globs, methods in alike.items()]


def _ports(ports: set[int]) -> tuple[int, ...]:
    return () if ports == DEFAULT_PORTS else tuple(sorted(ports))


def _wildcards(entries: Iterable[Suggested]) -> Iterable[Wildcard]:
    siblings: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for suggested in entries:
        siblings[suggested.tool, suggested.entry.host.partition(".")[2]].add(suggested.entry.host)
    for (tool, parent), names in siblings.items():
        if len(names) >= _SIBLINGS and "." in parent and not is_public_suffix(parent):
            yield Wildcard(tool, f"*.{parent}", tuple(sorted(names)))


def _place(call: RecordedCall) -> str:
    if call.host == OTHER and call.port == 0:
        return "other hosts"
    return host_port(call.host, call.port)


def _seen(calls: Sequence[RecordedCall]) -> CallCounts:
    denied = sum(call.count for call in calls if call.verdict == "deny")
    passed = sum(call.count for call in calls if call.verdict != "deny")
    return CallCounts(passed, denied, min(call.first for call in calls), max(call.last for call in calls))
