"""What follows from each reason: one table for answers, `report` mode, hints, suggestions, requests, UI and docs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cloned_proxy.policy.terms.vocabulary import Reason


@dataclass(frozen=True, slots=True)
class Consequences:
    """What follows from one reason. Where a text hangs on more than the reason it is "", and code makes it."""

    meaning: str
    """In plain words, for the UI and docs/reasons.md."""
    status: int = 403
    """Status code of the answer to the caller (RFC 9110, section 15)."""
    reportable: bool = True
    """Whether `report` mode lets such a request pass."""
    mendable: bool = False
    """Whether one more `allow` entry lets such a request pass."""
    hint: str = ""
    """The next step for the owner of the policy, and for a program of this host."""
    hint_inside: str = ""
    """The next step for a tool in a sandbox, which has no command of ours."""
    not_suggested: str = ""
    """Why `policy suggest` proposes no rule for it."""


OWNERS: Final = "only the owner of the policy can change that"
_OWN_CREDENTIAL: Final = "send the tool's own credential: `cloned-proxy token TOOL` prints one ready to export"
_NO_CREDENTIAL: Final = "send no credential: the proxy of a sandbox knows its tool without one"
_OTHER_NAME: Final = "the TLS server name must be the host of the CONNECT"
_NO_NAME: Final = "the client must send the host of the CONNECT as TLS server name"
_TWO_HOSTS: Final = "the Host header must name the host of the request target"
_AMBIGUOUS: Final = "the request can be read in more than one way; write host, port and path plainly"
_REPEATED: Final = "the response repeats a secret that the proxy injected"

REASONS: Final[Mapping[Reason, Consequences]] = MappingProxyType(
    {
        Reason.ALLOWED: Consequences("A rule allows it", status=200),
        Reason.HOST_NOT_ALLOWED: Consequences("No rule allows this host", mendable=True),
        Reason.PORT_NOT_ALLOWED: Consequences("The host is allowed, but not on this port", mendable=True),
        Reason.METHOD_NOT_ALLOWED: Consequences("The host is allowed, but not with this method", mendable=True),
        Reason.PATH_NOT_ALLOWED: Consequences("The host is allowed, but not this path", mendable=True),
        Reason.EXPLICIT_DENY: Consequences(
            "A rule denies it",
            hint_inside=f"the policy denies this host by name; {OWNERS}",
            not_suggested="a rule denies it explicitly; take that rule back first if it is wrong",
        ),
        Reason.IP_LITERAL: Consequences(
            "An IP address that no rule names",
            mendable=True,
            hint="write the address as four plain decimals, e.g. 192.0.2.1; other spellings are never allowed",
            hint_inside="write the address as four plain decimals, e.g. 192.0.2.1; other spellings are never allowed",
        ),
        Reason.ADDRESS_NOT_ALLOWED: Consequences(
            "The name leads to a private or reserved address",
            reportable=False,
            hint_inside=f"the host has an address that the policy does not open; {OWNERS}",
            not_suggested="it resolved to an address that is not public",
        ),
        Reason.IDENTITY_MISSING: Consequences(
            "The caller did not say which tool it is",
            status=407,
            reportable=False,
            hint="send the tool's credential: `cloned-proxy token TOOL` prints one ready to export",
            hint_inside=_NO_CREDENTIAL,
        ),
        Reason.IDENTITY_INVALID: Consequences(
            "The caller's credential is not genuine",
            status=407,
            reportable=False,
            hint=_OWN_CREDENTIAL,
            hint_inside=_NO_CREDENTIAL,
        ),
        Reason.IDENTITY_EXPIRED: Consequences(
            "The caller's credential has expired",
            status=407,
            reportable=False,
            hint="the credential has expired: `cloned-proxy token TOOL` prints a new one",
            hint_inside=_NO_CREDENTIAL,
        ),
        Reason.IDENTITY_MISMATCH: Consequences(
            "The credential belongs to another tool",
            reportable=False,
            hint="the credential belongs to another tool; use the one made for this tool",
            hint_inside=_NO_CREDENTIAL,
        ),
        Reason.SNI_MISMATCH: Consequences(
            "TLS was meant for another host than the tunnel",
            hint=_OTHER_NAME,
            hint_inside=_OTHER_NAME,
            not_suggested="the TLS server name was another host than the one asked for",
        ),
        Reason.SNI_MISSING: Consequences(
            "TLS did not name its host",
            hint=_NO_NAME,
            hint_inside=_NO_NAME,
            not_suggested="the tunnel named no TLS server; no rule makes up for it",
        ),
        Reason.HOST_HEADER_MISMATCH: Consequences(
            "The Host header names another host",
            status=400,
            reportable=False,
            hint=_TWO_HOSTS,
            hint_inside=_TWO_HOSTS,
            not_suggested="the Host header named another host than the request",
        ),
        Reason.PROTOCOL_NOT_ALLOWED: Consequences(
            "The tunnel did not carry TLS",
            hint_inside="a tunnel carries TLS only; send plain HTTP to the proxy without CONNECT",
            not_suggested="the tunnel did not carry TLS; only `protocols: [tcp]` opens that",
        ),
        Reason.MALFORMED_REQUEST: Consequences(
            "The request can be read in more than one way",
            status=400,
            reportable=False,
            hint=_AMBIGUOUS,
            hint_inside=_AMBIGUOUS,
        ),
        Reason.LEASE_EXPIRED: Consequences(
            "The rule that allowed it has expired",
            mendable=True,
            not_suggested="a lease for it has ended; renew it by `cloned-proxy allow … --for`",
        ),
        Reason.LEASE_USED_UP: Consequences(
            "The rule that allowed it is used up",
            mendable=True,
            not_suggested="a lease for it is used up; renew it by `cloned-proxy allow … --uses`",
        ),
        Reason.LIMIT_EXCEEDED: Consequences(
            "The tool's limit is reached",
            status=429,
            hint="wait as Retry-After says, or raise `limits` of the tool in the policy",
            hint_inside="wait as Retry-After says",
        ),
        Reason.SECRET_LEAK: Consequences(
            "The request carried a secret that is not this tool's",
            reportable=False,
            hint_inside=f"the request holds a secret that does not belong to this host; {OWNERS}",
            not_suggested="the request held a secret of the vault",
        ),
        Reason.SECRET_ECHOED: Consequences(
            "The answer repeated a secret", status=502, reportable=False, hint=_REPEATED, hint_inside=_REPEATED
        ),
        Reason.TOO_YOUNG: Consequences(
            "The package is younger than its rule wants",
            not_suggested="it was too young for its rule; `--package` of `cloned-proxy allow --registry` exempts it",
        ),
        Reason.STORE_UNAVAILABLE: Consequences(
            "The store of the fleet cannot count the uses of its rule now",
            status=503,
            reportable=False,
            hint="the fleet's store cannot count this use of a lease now: the log of `serve` says why",
            hint_inside="the host is allowed for a number of calls, which cannot be counted now; try again later",
        ),
        Reason.POLICY_UNAVAILABLE: Consequences(
            "No valid policy is loaded",
            status=503,
            reportable=False,
            hint="no valid policy is in force: `cloned-proxy doctor` says why, of a file as of a fleet",
            hint_inside=f"no valid policy is loaded; {OWNERS}",
        ),
        Reason.INTERNAL_ERROR: Consequences(
            "A fault of the proxy itself",
            status=503,
            reportable=False,
            hint="this is a fault of the proxy; its log says more",
            hint_inside="this is a fault of the proxy; its log, outside, says more",
        ),
    }
)
"""Every reason has its row."""

MENDABLE: Final = frozenset(reason for reason, row in REASONS.items() if row.mendable)
"""Denials that one more `allow` entry would mend, if the host is one that a rule can name."""
