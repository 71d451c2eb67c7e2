"""`allow` beyond the edit: what a name needs, and whether a call will pass once the rule is there."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cloned_proxy.cli.editing.editing import EditOptions, add_entries
from cloned_proxy.cli.place.context import policy_in
from cloned_proxy.cli.show.errors import say
from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.hints.hint import owner_hint
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.address import classify
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.vocabulary import DEFAULT_PORTS, Reason
from cloned_proxy.proxy.enforce.enforced import as_enforced, listeners_of
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.workspaces.workspace import Workspace


def allow_hosts(entries: Sequence[Entry], *, tool: str | None, options: EditOptions) -> None:
    """Adds the entries, and says of each whose address will refuse it all the same. Raises as `add_entries`."""
    opened = [entry.opened_for_its_name() for entry in entries]
    place = add_entries("allow", opened, tool=tool, options=options)
    for asked, written in zip(entries, opened, strict=True):
        if written != asked:
            say(f"{asked.host} is this machine, so its rule carries `addresses: [private]`")
    if options.dry_run:
        return
    _, policy = policy_in(place, options.policy_file)
    for entry in opened:
        if told := _refused_by_address(entry, tool, policy, place):
            say(told)


def _refused_by_address(entry: Entry, tool: str | None, policy: Policy, place: Workspace) -> str:
    """What to add where the hosts file says already that the name leads to an address that the rule does not open."""
    caller = ANONYMOUS if tool is None else Principal(tool)
    request = Request(entry.host, min(entry.ports or DEFAULT_PORTS))
    found = as_enforced(decide(policy, caller, request, time.time()), listeners_of(place), ask=False).decision
    if found.reason is not Reason.ADDRESS_NOT_ALLOWED:
        return ""
    address = found.refused_address
    kind = "" if address is None else f" ({classify(address).value.replace('_', '-')})"
    return f"a call will still be refused, because {entry.host} is {address}{kind} here: {owner_hint(found)}"
