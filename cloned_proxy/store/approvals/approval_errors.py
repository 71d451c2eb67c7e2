"""Why a request for other rules is not taken, or not decided. Each message is one line that a person can act on."""

from __future__ import annotations

from cloned_proxy.store.approvals.approval import Approval


class ApprovalError(Exception):
    """The family; nothing was changed."""


class NotAllowedToAskError(ApprovalError):
    """The policy does not let this tool ask for that."""


class NeverAllowedError(ApprovalError):
    """No rule may allow what is asked for."""


class TooManyRequestsError(ApprovalError):
    """Too many new requests, or too many that wait for a person."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class RejectedError(ApprovalError):
    """A person has just refused the same; `on_deny: ask` does not ask again for a while."""


class InForceError(ApprovalError):
    """The policy says so already."""


class UnknownApprovalError(ApprovalError):
    """There is no such request."""


class DecidedError(ApprovalError):
    """Somebody else decided first, or the time is over. `approval` says which."""

    def __init__(self, approval: Approval) -> None:
        by = "" if approval.state == "expired" else f" by {approval.decided_by}"
        super().__init__(f"request {approval.id} is {approval.state}{by}; the tool may ask again")
        self.approval = approval
