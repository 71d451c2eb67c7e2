"""The fixed words of a policy and of its decisions: verdicts, reasons, modes, names of scopes."""

from __future__ import annotations

import enum
from typing import Final

DEFAULT_PORTS: Final = frozenset({80, 443})

SSH_PORT: Final = 22

GLOBAL_SCOPE: Final = "global"

OWN_HOST: Final = "cloned.internal"
"""Where the proxy itself answers, in plain HTTP. No rule opens it: it is never looked up and never dialled."""

OWN_RULES: Final = "self"  # in `may_request`: the rules of the tool that asks


class Verdict(enum.IntEnum):
    """What happens to a request. The zero value denies, so a forgotten assignment denies too."""

    DENY = 0
    ALLOW = 1
    REPORT = 2  # passes only because of `report` mode; recorded with the reason that would have denied it


class Reason(enum.StrEnum):
    """Why, in the words of answers, metrics and the audit log; `policy.terms.reasons` has what follows from each."""

    ALLOWED = "allowed"
    HOST_NOT_ALLOWED = "host_not_allowed"
    PORT_NOT_ALLOWED = "port_not_allowed"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    PATH_NOT_ALLOWED = "path_not_allowed"
    EXPLICIT_DENY = "explicit_deny"
    IP_LITERAL = "ip_literal"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    IDENTITY_MISSING = "identity_missing"
    IDENTITY_INVALID = "identity_invalid"
    IDENTITY_EXPIRED = "identity_expired"
    IDENTITY_MISMATCH = "identity_mismatch"
    SNI_MISMATCH = "sni_mismatch"
    SNI_MISSING = "sni_missing"
    HOST_HEADER_MISMATCH = "host_header_mismatch"
    PROTOCOL_NOT_ALLOWED = "protocol_not_allowed"
    MALFORMED_REQUEST = "malformed_request"
    LEASE_EXPIRED = "lease_expired"
    LEASE_USED_UP = "lease_used_up"
    LIMIT_EXCEEDED = "limit_exceeded"
    SECRET_LEAK = "secret_leak"  # noqa: S105  a reason
    SECRET_ECHOED = "secret_echoed"  # noqa: S105  a reason
    TOO_YOUNG = "too_young"
    STORE_UNAVAILABLE = "store_unavailable"
    POLICY_UNAVAILABLE = "policy_unavailable"
    INTERNAL_ERROR = "internal_error"


class Mode(enum.StrEnum):
    ENFORCE = "enforce"
    REPORT = "report"


class Anonymous(enum.StrEnum):
    """What a caller of the host listener without a credential gets."""

    DENY = "deny"
    GLOBAL = "global"
    """What the global rules give, and else a refusal."""
    CHALLENGE = "challenge"
    """What the global rules give, and else a question for its credential: `policy.callers.challenge`."""


class OnDeny(enum.StrEnum):
    REFUSE = "refuse"
    ASK = "ask"
