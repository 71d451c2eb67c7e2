"""The input of `cloned.internal.security.egress.update@v1`: strict JSON becomes a `Proposal`, or says what to mend."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError

from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.secrets.redact import MAX_TEXT, bounded
from cloned_proxy.policy.terms.host_port import split_port
from cloned_proxy.policy.terms.strict_json import read_json
from cloned_proxy.policy.terms.units import parse_term
from cloned_proxy.policy.terms.vocabulary import SSH_PORT
from cloned_proxy.store.approvals.approval import Approval, Proposal
from cloned_proxy.store.approvals.approval_errors import ApprovalError
from cloned_proxy.store.approvals.approval_rules import MAX_ENTRIES
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.files.strict_model import StrictModel
from cloned_proxy.store.policyfile.policy_entry import Action, Entry
from cloned_proxy.store.workspaces.workspace import Workspace

UPDATE_TOOL: Final = "cloned.internal.security.egress.update@v1"
MAX_BODY: Final = 16 * 1024
_MAX_DOMAIN: Final = 300
_MAX_REASON: Final = 4000
_MOST_TOLD: Final = 5
"""Problems of one body that a refusal names."""
_MAX_PLACE: Final = 40
"""Characters of a key that a refusal repeats."""
_POLL_SECONDS: Final = 0.5


class MalformedRequestError(ApprovalError):
    """The input is not what the tool takes; one line, with its first problems."""


class EgressUpdate(StrictModel):
    """What a tool sends. Unknown keys, wrong types and numbers for texts are refused."""

    scope: Literal["tool", "global"] = "tool"
    tool_id: str | None = Field(default=None, max_length=128)
    """None: the one that asks."""
    domains: list[Annotated[str, Field(max_length=_MAX_DOMAIN)]] = Field(min_length=1, max_length=MAX_ENTRIES)
    """`api.example.com`, `*.example.com`, `api.example.com:8443`."""
    action: Action = "allow"
    lasting: Annotated[float, BeforeValidator(parse_term)] | None = Field(default=None, alias="for")
    """Seconds, or a text such as `30m`."""
    uses: int | None = None
    reason: str = Field(default="", max_length=_MAX_REASON)


def read_update(raw: bytes | str, asker: str | None) -> Proposal:
    """The proposal in a JSON text. `asker` stands in for a `tool_id` that is left out. Raises MalformedRequestError."""
    try:
        document = read_json(raw)
    except ValueError as error:
        raise MalformedRequestError(f"the body is not JSON: {error}") from error
    return proposal_of(document, asker)


def proposal_of(document: object, asker: str | None) -> Proposal:
    """The proposal of a document that JSON gave; as `read_update`."""
    try:
        read = EgressUpdate.model_validate(document)
    except ValidationError as error:
        raise MalformedRequestError(_problems(error)) from error
    tool = None if read.scope == "global" else read.tool_id or asker
    if read.scope == "global" and read.tool_id is not None:
        raise MalformedRequestError("tool_id: leave it out with scope 'global', which is for every tool")
    if read.scope == "tool":
        try:
            tool_id(tool)
        except ValueError as error:
            raise MalformedRequestError(f"tool_id: {error}") from error
    return Proposal(
        tuple(map(_entry, read.domains, [read.action] * len(read.domains))),
        tool,
        read.action,
        read.lasting,
        read.uses,
        read.reason,
    )


def _entry(domain: str, action: Action) -> Entry:
    try:
        host, port = split_port(domain)
    except ValueError as error:
        raise MalformedRequestError(f"domains: {error}") from error
    if port is not None and action == "deny":
        raise MalformedRequestError(f"domains: {domain!r}: a deny covers every port; write {host}")
    # Who asks for port 22 wants SSH, and a rule that does not say so would refuse it again as no TLS.
    return Entry(host, () if port is None else (port,), protocols=("ssh",) if port == SSH_PORT else ())


def _problems(error: ValidationError) -> str:
    """One line of at most `MAX_TEXT` characters: a body can hold thousands of problems, and refusals are recorded."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    more = f"; and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
    return bounded("; ".join(map(_told, found[:_MOST_TOLD])), MAX_TEXT - len(more)) + more


def _told(detail: Mapping[str, Any]) -> str:
    place = bounded(".".join(map(str, detail["loc"])), _MAX_PLACE) or "body"
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown; known are scope, tool_id, domains, action, for, uses, reason"
    return f"{place}: {str(detail['msg']).removeprefix('Value error, ')}"


@dataclass(frozen=True, slots=True)
class EgressRequest:
    """A request that was opened from Python."""

    id: str
    service: ApprovalService

    def state(self) -> Approval:
        """The request as it is now. Raises StoreError."""
        return self.service.get(self.id)

    def wait(self, timeout: float = 900.0) -> Approval:
        """Blocks until somebody has decided, the request has run out, or `timeout` seconds are over."""
        ends = time.monotonic() + timeout
        while (approval := self.state()).state == "pending" and time.monotonic() < ends:
            time.sleep(_POLL_SECONDS)
        return approval


def request_egress(
    domains: Sequence[str],
    *,
    tool_id: str | None = None,
    scope: Literal["tool", "global"] = "tool",
    action: Action = "allow",
    lasting: str | float | None = None,
    uses: int | None = None,
    reason: str = "",
    workspace: Path | str | None = None,
) -> EgressRequest:
    """Asks a person for a change of the policy, from a program of the host; nothing changes before the yes.

    `lasting` is seconds or a text such as `30m`; None asks for good. The workspace is found as the commands find it.
    Raises ApprovalError for what cannot be asked, PolicyError and StoreError for a workspace that cannot be used.
    """
    update = {"scope": scope, "tool_id": tool_id, "domains": list(domains), "action": action, "uses": uses}
    proposal = proposal_of({**update, "for": lasting, "reason": reason}, None)
    place = Workspace.find(Path(workspace) if workspace is not None else None)
    service = ApprovalService(place)
    approval = service.ask(f"python:{getpass.getuser()}", proposal, origin="host")
    return EgressRequest(approval.id, service)
