"""`registry` of a rule: nothing of a package registry that is younger than so many days.

A rule with it allows a registry's metadata, shown without the versions that are too young, and the files of the
versions that are old enough. `policy.deciding.decide` picks the rule, `decide_age` judges a date under it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cloned_proxy.policy.terms.units import format_duration
from cloned_proxy.policy.terms.vocabulary import Mode, Reason, Verdict

if TYPE_CHECKING:
    from cloned_proxy.policy.terms.decision import Decision

_NPM_NAME: Final = re.compile(r"(?:@[A-Za-z0-9~][A-Za-z0-9._~-]*/)?[A-Za-z0-9~][A-Za-z0-9._~-]*")
_NPM_PATTERN: Final = re.compile(r"(?:@[A-Za-z0-9~][A-Za-z0-9._~-]*/)?[A-Za-z0-9._~*-]+")
_PYPI_PATTERN: Final = re.compile(r"[A-Za-z0-9._*-]+")
_RUNS: Final = re.compile(r"[-_.]+")
_INDEX: Final = re.compile(r"(?:/[A-Za-z0-9._~+-]+)*/")


class RegistryKind(enum.StrEnum):
    NPM = "npm"
    PYPI = "pypi"


INDEX_OF: Final = {RegistryKind.NPM: "/", RegistryKind.PYPI: "/simple/"}
"""Where a registry of a kind has its metadata, unless the rule says something else."""


@dataclass(frozen=True, slots=True)
class Registry:
    kind: RegistryKind
    min_age: float
    """Seconds since the upload, by the proxy's clock. What lies in the future is never old enough."""
    allow: tuple[str, ...] = ()
    """Packages of any age: names, or patterns in which `*` is any run of characters but `/`."""
    index: str = "/"
    """The path that a client has in its settings, with a slash at both ends: of the registry, or of the simple API."""

    def exempts(self, package: str) -> bool:
        """Whether the package (canonical name) passes at any age."""
        return any(_pattern(text).fullmatch(package) for text in self.allow)

    def in_words(self) -> str:
        """`npm from 7d on, but @acme/*, left-pad`."""
        told = f"{self.kind} from {format_duration(self.min_age)} on"
        return f"{told}, but {', '.join(self.allow)}" if self.allow else told

    def as_value(self) -> dict[str, str | list[str]]:
        """The value of `registry:` as it stands in a policy file."""
        value: dict[str, str | list[str]] = {"kind": self.kind.value, "min_age": format_duration(self.min_age)}
        if self.allow:
            value["allow"] = list(self.allow)
        if self.index != INDEX_OF[self.kind]:
            value["index"] = self.index
        return value


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(map(re.escape, text.split("*"))))  # `re` keeps what it has compiled


@dataclass(frozen=True, slots=True)
class Age:
    """What is known of the age of that which a request asks for."""

    package: str
    version: str = ""
    """"" when the metadata does not say which version a file belongs to."""
    published: float | None = None
    """Unix seconds; None: nobody knows."""
    newest: str = ""
    """The newest version that is old enough; "" when there is none."""
    problem: str = ""
    """Why the date is not known, as a clause that follows the name of the package."""


def decide_age(decision: Decision, age: Age, now: float) -> Decision:
    """The decision once the age is known: refused when the rule wants more, and when nobody knows it.

    A date in the future is refused like one of today: either a clock is wrong or somebody has set it.
    """
    rule = decision.rule
    if not decision.passes or rule is None or rule.registry is None or rule.denies:
        return decision
    if age.published is not None and now - age.published >= rule.registry.min_age >= 0:
        return decision
    verdict = Verdict.REPORT if decision.mode is Mode.REPORT else Verdict.DENY
    return replace(decision, verdict=verdict, reason=Reason.TOO_YOUNG, age=age)


def decide_in_the_clear(decision: Decision) -> Decision:
    """The decision on a plain HTTP request: refused under a rule with `registry`, for only opened TLS is filtered."""
    rule = decision.rule
    if not decision.passes or rule is None or rule.registry is None or rule.denies:
        return decision
    verdict = Verdict.REPORT if decision.mode is Mode.REPORT else Verdict.DENY
    return replace(decision, verdict=verdict, reason=Reason.PROTOCOL_NOT_ALLOWED)


def parse_package_pattern(kind: RegistryKind, text: str) -> str:
    """A pattern of `allow` in canonical form. Raises ValueError with the fix in its message."""
    form = _NPM_PATTERN if kind is RegistryKind.NPM else _PYPI_PATTERN
    if form.fullmatch(text) is None:
        example = "'@acme/*' or left-pad" if kind is RegistryKind.NPM else "acme-* or requests"
        raise ValueError(f"{text!r} is not a package of {kind}; write a name or a pattern such as {example}")
    if not text.strip("*"):
        raise ValueError(f"{text!r} would exempt every package; write 'min_age: 0s', which says so")
    return text if kind is RegistryKind.NPM else canonical_project(text)


def parse_index(text: str) -> str:
    """The path of an index with a slash at both ends. Raises ValueError with the fix in its message."""
    index = text if text.endswith("/") else f"{text}/"
    if _INDEX.fullmatch(index) is None or not {".", ".."}.isdisjoint(index.split("/")):
        raise ValueError(f"{text!r} is not the path of an index; write the path of the client's setting: '/simple/'")
    return index


def canonical_project(name: str) -> str:
    """PEP 503: case, and which of `-`, `_` and `.` a name has, make no difference."""
    return _RUNS.sub("-", name).lower()


def is_npm_name(name: str) -> bool:
    """Whether npm could have a package of this name; upper case is of old ones."""
    return _NPM_NAME.fullmatch(name) is not None
