"""Host names and IP literals, from what a caller or a policy file wrote to one canonical form.

Two readers of one name are how an allowlist is walked around, so a spelling passes here only when every reader we
know of agrees on it: `idna` (IDNA 2008, UTS-46, non-transitional) and the standard library's IDNA 2003 codec, which
`socket` uses, must give the same A-label; everything that `inet_aton` or a browser would take for a number must be
a canonical IP literal. Labels with an underscore are accepted (`a_b.example.com` exists on the web).
"""

from __future__ import annotations

import ipaddress
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, NoReturn

from cloned_proxy.policy.terms.rule import Host, HostPattern, PatternKind
from cloned_proxy.policy.terms.vocabulary import Reason

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

_MAX_NAME: Final = 253  # RFC 1035, section 2.3.4, as text and without the trailing dot
_MAX_LABEL: Final = 63
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_PLAIN_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# What nearly every host is: lower-case LDH without xn--, its last label starting with a letter (so never a number).
_USUAL_NAME: Final = re.compile(rf"(?!.*xn--)(?:{_LABEL}\.)+[a-z](?:[a-z0-9_-]{{0,61}}[a-z0-9_])?")
# WHATWG URL, "ends in a number": such a host is an IPv4 address for a browser, whatever stands in front.
_NUMERIC_END: Final = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?$", re.ASCII)
_CANONICAL_IPV4: Final = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f%@/\\?#<>^|\[\]\"'`{}()*+,;=!$&~:]")


class HostError(ValueError):
    """A host that is refused outright: `reason` is `malformed_request` or `ip_literal`, the message says why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_host(text: str) -> Host:
    """The canonical form of a host as it stands in a request, without brackets or port. Raises HostError."""
    if not text or len(text) > _MAX_NAME + 1:  # before the cache, which must hold nothing of a caller's chosen size
        raise _malformed(
            "" if not text else text[:40] + "…", "is empty" if not text else "is longer than 253 characters"
        )
    return _parse_host(text)


@lru_cache(maxsize=32_768)
def _parse_host(text: str) -> Host:
    if len(text) <= _MAX_NAME and _USUAL_NAME.fullmatch(text) is not None:
        return Host(text)
    if ":" in text:
        return _ipv6(text)
    if (bad := _FORBIDDEN.search(text)) is not None:
        raise _malformed(text, f"holds the character {bad.group()!r}, which no host name has")
    if _NUMERIC_END.search(text) is not None:
        return _ipv4(text)
    name = text.removesuffix(".").lower() if text.isascii() else _a_label(text)
    if name.startswith("xn--") or ".xn--" in name:
        _same_in_both_idnas(name, text)
    if len(name) > _MAX_NAME or _PLAIN_NAME.fullmatch(name) is None:
        raise _malformed(text, _label_fault(name))
    return Host(name)


def is_loopback_name(name: str) -> bool:
    """Whether a canonical name means this machine, whoever is asked (RFC 6761, section 6.3)."""
    return name == "localhost" or name.endswith(".localhost")


def _malformed(text: str, fault: str) -> HostError:
    return HostError(Reason.MALFORMED_REQUEST, f"{text!r} {fault}")


def _label_fault(name: str) -> str:
    if len(name) > _MAX_NAME:
        return "is longer than 253 characters"
    for label in name.split("."):
        if not label:
            return "has an empty label"
        if len(label) > _MAX_LABEL:
            return "has a label of more than 63 characters"
        if label[0] == "-" or label[-1] == "-":
            return "has a label that starts or ends with a hyphen"
    return "is not a host name"


def _ipv6(text: str) -> Host:
    if "%" in text:
        raise _malformed(text, "names a zone, which means nothing to another machine; leave the '%' part out")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise _malformed(text, "is neither a host name nor an IPv6 address") from error
    return Host(str(address), address)


def _ipv4(text: str) -> Host:
    # `127.0.0.1.` lands here too: with a trailing dot some readers take it for a name and others for the address.
    if _CANONICAL_IPV4.fullmatch(text) is not None:
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            pass  # an octet above 255
        else:
            return Host(text, address)
    raise HostError(
        Reason.IP_LITERAL,
        f"{text!r} ends in a number, so some readers take it for an IP address; write four plain decimals (192.0.2.1)",
    )


def _a_label(text: str) -> str:
    """The A-label form of a name with non-ASCII characters, if IDNA 2003 and IDNA 2008 give the same one."""
    import idna  # noqa: PLC0415  its tables cost 10 ms, which plain names (and `--help`) need not pay

    try:
        modern = idna.encode(text, uts46=True, transitional=False, std3_rules=True).decode("ascii")
        legacy = text.encode("idna").decode("ascii")
    except (UnicodeError, IndexError) as error:
        raise _malformed(text, f"is not a valid international name ({error})") from error
    modern = modern.removesuffix(".").lower()
    if modern != legacy.removesuffix(".").lower():
        raise _malformed(text, "names different hosts under IDNA 2003 and IDNA 2008; no spelling of it is safe")
    if _NUMERIC_END.search(modern) is not None:
        raise HostError(Reason.IP_LITERAL, f"{text!r} turns into a number; write the address in plain decimals")
    return modern


def _same_in_both_idnas(name: str, text: str) -> None:
    """Raises HostError unless an A-label decodes to the same name in both IDNAs and back to itself."""
    import idna  # noqa: PLC0415  as in `_a_label`

    try:
        modern = idna.decode(name, strict=False)
        legacy = name.encode("ascii").decode("idna")
        back = {idna.encode(modern).decode("ascii"), legacy.encode("idna").decode("ascii")}
    except (UnicodeError, IndexError) as error:
        raise _malformed(text, f"has an invalid xn-- label ({error})") from error
    if modern != legacy or back != {name}:
        raise _malformed(text, "has an xn-- label that IDNA 2003 and IDNA 2008 read differently")


_WILDCARDS: Final = (("**.", PatternKind.ANY_DEPTH), ("*.", PatternKind.ONE_LABEL))


def parse_pattern(text: str) -> HostPattern:
    """The canonical form of a pattern in a policy file. Raises ValueError with the fix in its message."""
    if len(text) <= _MAX_NAME and _USUAL_NAME.fullmatch(text) is not None:
        return HostPattern(PatternKind.EXACT, text)
    _reject_other_languages(text)
    for prefix, kind in _WILDCARDS:
        if text.startswith(prefix):
            return _wildcard(text, text[len(prefix) :], kind)
    if "*" in text:
        raise ValueError(
            f"{text!r}: a wildcard stands for whole labels at the front; use '*.example.com' (one label) or "
            "'**.example.com' (one or more)"
        )
    host = parse_host(text)
    return HostPattern(PatternKind.EXACT if host.address is None else PatternKind.ADDRESS, host.text)


_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WITH_PORT: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:]+):(?P<port>[0-9*]+)")
_RANGE: Final = re.compile(r"[0-9A-Fa-f:.]*[0-9:]/[0-9]{1,3}")
_RANGE_ADVICE: Final = (
    "{!r} is a network; write {{cidr: {}}}: it allows its addresses, and lets names that have a rule of their own "
    "resolve into it"
)
_MAX_PORT: Final = 65_535
_REGEX: Final = re.compile(r"[\\^$()|+?\[\]{}]")


def _reject_other_languages(text: str) -> None:
    """URLs, ports and regular expressions are what people write first: each gets its own fix."""
    if not text:
        raise ValueError("an empty host matches nothing; write a name such as 'api.example.com'")
    if text in ("*", "**"):
        raise ValueError(f"{text!r} would allow every host; name the hosts, e.g. 'api.example.com' or '*.example.com'")
    if text.startswith("."):
        raise ValueError(
            f"{text!r}: a leading dot says nothing here; use '*{text}' (one label) or '**{text}' (any depth)"
        )
    if any(character.isspace() for character in text):
        deeper = " (a line that is indented deeper goes on with the one above)" if " - " in text else ""
        raise ValueError(f"{text!r} holds a space{deeper}; write one host in each entry")
    if (scheme := _SCHEME.match(text)) is not None:
        rest = text[scheme.end() :].partition("/")[0]
        raise ValueError(f"{text!r} holds a scheme; write the host alone: {rest!r}")
    if "/" in text:
        raise ValueError(_RANGE_ADVICE.format(text, text) if _RANGE.fullmatch(text) is not None else _path_advice(text))
    if (match := _WITH_PORT.fullmatch(text)) is not None:
        _reject_port(text, match["host"].strip("[]"), match["port"])
    if text.startswith("[") and text.endswith("]") and ":" in text:
        raise ValueError(f"{text!r}: write an IPv6 address without brackets: {text[1:-1]!r}")
    if _REGEX.search(text) is not None:
        raise ValueError(f"{text!r} looks like a regular expression; patterns are 'name', '*.name' and '**.name'")


def _path_advice(text: str) -> str:
    return f"{text!r} holds a path; write {{host: {text.partition('/')[0]}, paths: [...]}}"


def _reject_port(text: str, host: str, port: str) -> NoReturn:
    """A rule has its ports in a list of their own."""
    if not (port.isdecimal() and 0 < int(port) <= _MAX_PORT):
        raise ValueError(f"{text!r}: {port} is no port (1 to {_MAX_PORT}); write {{host: {host}, ports: [443]}}")
    raise ValueError(f"{text!r} holds a port; write {{host: {host}, ports: [{int(port)}]}}")


def _wildcard(text: str, suffix: str, kind: PatternKind) -> HostPattern:
    if "*" in suffix:
        raise ValueError(f"{text!r}: only one wildcard, at the front; use '**.example.com' for any depth")
    host = parse_host(suffix)
    if host.address is not None:
        raise ValueError(f"{text!r}: an IP address has no subdomains; write the address itself")
    if is_public_suffix(host.text):
        raise ValueError(
            f"{text!r} is too broad: anyone can have a name under {suffix!r}; use '{kind.value}example.{suffix}' "
            "with the name of the one owner you mean"
        )
    return HostPattern(kind, host.text)


def is_public_suffix(name: str) -> bool:
    """Whether strangers register names directly under `name`.

    The list's private section counts too: the owner of `x.github.io` or `x.s3.amazonaws.com` is as much a stranger
    as the owner of `x.com`. Unknown top-level names (`internal`) count as suffixes. The second look is for entries
    such as `*.kawasaki.jp`, where it is every child of the name that is a suffix.
    """
    suffixes = _public_suffixes()
    child = f"a.{name}"
    return suffixes.publicsuffix(name) == name or suffixes.publicsuffix(child) == child


def suffix_below(name: str, *, at_once: bool) -> str:
    """The shortest public suffix below a name that is none itself (`s3.amazonaws.com` of `amazonaws.com`), or "".

    `at_once`: only one label below.
    """
    ending, labels = f".{name}", name.count(".") + 1
    # The list has no public way to ask for what is below a name.
    listed = (suffix for suffix in _public_suffixes()._publicsuffix if suffix.endswith(ending))  # noqa: SLF001
    found = (suffix for suffix in listed if not at_once or suffix.count(".") == labels)
    return min(found, key=lambda suffix: (suffix.count("."), suffix), default="")


@cache
def _public_suffixes() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415  parsing the list takes 50 ms: only for wildcards

    return PublicSuffixList()
