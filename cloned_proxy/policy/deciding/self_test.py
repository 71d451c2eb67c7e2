"""The `tests:` of a policy file, run against the policy itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.problem import Problem

type Wanted = Literal["allow", "deny"]


@dataclass(frozen=True, slots=True)
class FailedTest:
    """One expectation of the file that does not hold."""

    test: int
    """Position in `tests:`."""
    wanted: Wanted
    position: int
    """Position among the test's URLs in that list."""
    url: str
    tool: str | None
    said: str
    """`allowed`, or `denied (<reason>)`."""
    line: int | None
    """The line of the test in the policy file."""

    @property
    def place(self) -> str:
        return f"tests[{self.test}].{self.wanted}[{self.position}]"

    @property
    def path(self) -> tuple[str | int, ...]:
        """In the document."""
        return ("tests", self.test, self.wanted, self.position)

    @property
    def wish(self) -> str:
        """What the test asks for: `'https://example.net/' should be denied for demo@v1`."""
        whom = f" for {self.tool}" if self.tool is not None else ""
        return f"{self.url!r} should be {'allowed' if self.wanted == 'allow' else 'denied'}{whom}"

    @property
    def problem(self) -> Problem:
        return Problem(self.place, self.line, f"{self.wish} and is {self.said}")

    def __str__(self) -> str:
        return f"{self.place} {self.url!r}"


def failed_tests(policy: Policy, now: float) -> tuple[FailedTest, ...]:
    """Runs the file's `tests:` against the policy itself; an empty tuple means that all of them hold."""
    failures: list[FailedTest] = []
    for number, test in enumerate(policy.tests):
        caller = ANONYMOUS if test.tool is None else Principal(test.tool)
        lists: tuple[tuple[Wanted, tuple[str, ...]], ...] = (("allow", test.allow), ("deny", test.deny))
        for wanted, urls in lists:
            for position, url in enumerate(urls):
                decision = decide_url(policy, caller, url, "GET", now)
                # In report mode everything passes; what the rules themselves say is the reason.
                allowed = decision.passes and decision.reason == "allowed"
                if allowed != (wanted == "allow"):
                    said = "allowed" if allowed else f"denied ({decision.reason})"
                    failures.append(FailedTest(number, wanted, position, url, test.tool, said, test.line))
    return tuple(failures)
