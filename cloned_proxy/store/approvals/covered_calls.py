"""What is on record of the calls that proposed rules cover, counted by the database: there may be a million of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.paths.path import path_denied, path_matches
from cloned_proxy.policy.terms.reasons import MENDABLE
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.store.approvals.approval import Proposal
from cloned_proxy.store.audit.tally import HOUR, JOIN, RecordedCall, Tally, condition_of_host

OUTER: Final = ("", "CONNECT")
"""Methods of calls whose inside nobody saw."""
_MENDABLE_LIST: Final = ", ".join(f"'{reason.value}'" for reason in sorted(MENDABLE))


@dataclass(frozen=True, slots=True)
class Matched:
    """Recorded calls of one tool to one host that the proposed rules cover."""

    tool: str | None
    host: str
    passed: int
    denied: int
    last: float


class _Condition(NamedTuple):
    """A part of a WHERE, and its values."""

    text: str
    values: tuple[Any, ...]

    def __and__(self, other: _Condition) -> _Condition:
        return _Condition(f"{self.text} AND {other.text}", self.values + other.values)


class CoveredCalls:
    """The recorded calls that one proposal and its rules cover, since a time in Unix seconds.

    Methods raise StoreError.
    """

    def __init__(
        self, tally: Tally, proposal: Proposal, rules: tuple[Rule, ...], policy: Policy, *, since: float, asker: str
    ) -> None:
        self._tally = tally
        self._rules = rules
        self._since = since
        self._asker = asker
        whom = _whom(proposal.tool, policy)
        self._covered = whom & self._any_rule(narrow=True)
        self._same_hosts = whom & self._any_rule(narrow=False)
        tally.define("path_covered", self._path_covered)

    def matched(self, most: int) -> tuple[list[Matched], int]:
        """The calls by tool and host, the most frequent first, and the number of all pairs of tool and host."""
        rows = self._rows(
            "nullif(tool, ''), host, sum(iif(verdict = 'deny', 0, count)) AS passed, "
            "sum(iif(verdict = 'deny', count, 0)) AS denied, max(last), count(*) OVER ()",
            self._covered,
            "GROUP BY host, tool ORDER BY passed + denied DESC, host",
            most,
        )
        return [Matched(*row[:5]) for row in rows], int(rows[0][5]) if rows else 0

    def denied(self, most: int, *, whole_hosts: bool) -> list[RecordedCall]:
        """What the asker was refused and these rules would mend, the most frequent first.

        `whole_hosts`: or other rules for the same hosts and ports.
        """
        what = "nullif(tool, ''), host, port, method, path, verdict, reason, sum(count) AS times, min(first), max(last)"
        rows = self._rows(what, self._refused(whole_hosts=whole_hosts), "GROUP BY id ORDER BY times DESC", most)
        return list(map(RecordedCall._make, rows))

    def denied_hosts(self, most: int, *, whole_hosts: bool) -> list[str]:
        """The hosts of `denied`."""
        return [host for (host,) in self._rows("DISTINCT host", self._refused(whole_hosts=whole_hosts), "", most)]

    def reached(self, most: int) -> list[str]:
        """Hosts that the rules cover and that the asker was not refused, in alphabetical order."""
        refused = self._refused(whole_hosts=False)
        others = self._covered & _Condition(f"NOT ({refused.text})", refused.values)
        asked = self._in_time(refused)
        never = others & _Condition(f"host NOT IN (SELECT host {asked.text})", asked.values)
        return [host for (host,) in self._rows("DISTINCT host", never, "ORDER BY host", most)]

    def _rows(self, what: str, which: _Condition, order: str, most: int) -> list[Any]:
        found = self._in_time(which)
        return self._tally.rows(f"SELECT {what} {found.text} {order} LIMIT ?", (*found.values, most))

    def _in_time(self, which: _Condition) -> _Condition:
        where = f"FROM {JOIN} WHERE hour >= ? AND last >= ? AND {which.text}"
        return _Condition(where, (int(self._since // HOUR), self._since, *which.values))

    def _refused(self, *, whole_hosts: bool) -> _Condition:
        """Denials of the asker that a rule mends."""
        asked = _Condition(f"tool = ? AND verdict <> 'allow' AND reason IN ({_MENDABLE_LIST})", (self._asker,))
        return asked & (self._same_hosts if whole_hosts else self._covered)

    def _any_rule(self, *, narrow: bool) -> _Condition:
        each = [_rule(index, rule, narrow=narrow) for index, rule in enumerate(self._rules)]
        text = " OR ".join(condition.text for condition in each)
        return _Condition(f"({text})", tuple(value for condition in each for value in condition.values))

    def _path_covered(self, index: int, path: str) -> bool:
        rule = self._rules[index]
        covers = path_denied if rule.denies else path_matches
        return any(covers(pattern, path) for pattern in rule.paths or ())


def _whom(tool: str | None, policy: Policy) -> _Condition:
    """Whom the rules concern. What could not be read is covered by no rule."""
    readable = _Condition(f"reason <> '{Reason.MALFORMED_REQUEST.value}'", ())
    if tool is not None:
        return readable & _Condition("tool = ?", (tool,))
    # Tools that do not inherit the global rules gain nothing from a new one.
    alone = tuple(name for name, own in policy.tools.items() if not own.inherit_global)
    return readable & _Condition(f"tool NOT IN ({_places(alone)})", alone)


def _rule(index: int, rule: Rule, *, narrow: bool) -> _Condition:
    """What the decision would be of a rule that has just been made. Of a tunnel the inside is not known yet."""
    condition = _Condition(*condition_of_host(rule.pattern))
    if rule.denies:
        return condition & _path(index) if narrow and rule.paths is not None else condition
    condition &= _Condition(f"port IN ({_places(rule.ports)})", tuple(rule.ports))
    if narrow and rule.methods is not None:
        methods = (*OUTER, *rule.methods)
        condition &= _Condition(f"method IN ({_places(methods)})", methods)
    if narrow and rule.paths is not None:
        condition &= _path(index)
    return condition


def _path(index: int) -> _Condition:
    return _Condition("(method IN ('', 'CONNECT') OR path_covered(?, path))", (index,))


def _places(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)
