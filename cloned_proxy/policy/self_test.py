"""The `tests:` of a policy file, run against the policy itself."""

from __future__ import annotations

from cloned_proxy.policy.caller import ANONYMOUS, Principal
from cloned_proxy.policy.model import Policy
from cloned_proxy.policy.parse import Problem
from cloned_proxy.policy.url import decide_url


def failed_tests(policy: Policy, now: float) -> tuple[Problem, ...]:
    """Runs the file's `tests:` against the policy itself; an empty tuple means that all of them hold."""
    failures: list[Problem] = []
    for test in policy.tests:
        caller = ANONYMOUS if test.tool is None else Principal(test.tool)
        for wanted, urls in (("allow", test.allow), ("deny", test.deny)):
            for index, url in enumerate(urls):
                decision = decide_url(policy, caller, url, "GET", now)
                # In report mode everything passes; what the rules themselves say is the reason.
                allowed = decision.passes and decision.reason == "allowed"
                if allowed != (wanted == "allow"):
                    place, _, line = test.origin.rpartition(":")
                    said = "allowed" if allowed else f"denied ({decision.reason})"
                    message = f"{url!r} should be {'allowed' if wanted == 'allow' else 'denied'} and is {said}"
                    failures.append(
                        Problem(f"{place}.{wanted}[{index}]", int(line) if line.isdigit() else None, message)
                    )
    return tuple(failures)
