"""The shape of a policy file, as pydantic reads it: strict types, no unknown key, no meaning yet.

Kept apart from the values of `policy.model.model`: these structs know what YAML can say, those what a decision needs.
Hosts, paths and rule lists stay raw here; `policy.reading.parse` reads them, because their errors need their own words.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cloned_proxy.policy.secrets.secret import check_injected_name, check_template
from cloned_proxy.policy.terms.http_token import METHOD, TOKEN_CHARACTERS
from cloned_proxy.policy.terms.units import parse_duration, parse_size

MAX_HOLD: Final = 60.0
"""Seconds. Longer than this and clients give up before the answer comes."""

MIN_IDLE: Final = 1.0
"""Seconds. The sweep looks once in a second."""
MAX_IDLE: Final = 604_800.0
"""Seconds: a week."""

MAX_MIN_AGE: Final = 315_360_000.0
"""Seconds: ten years."""

_FIELD_NAME: Final = re.compile(rf"[{TOKEN_CHARACTERS}]{{1,128}}", re.ASCII)


def parse_expiry(value: object) -> float:
    """Unix seconds from a date and time with a zone. Raises ValueError with the fix in its message."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a time; write it as 2026-12-01T00:00:00Z") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone; write {value.isoformat()}Z for UTC")
        return value.astimezone(UTC).timestamp()
    if isinstance(value, date):
        raise ValueError(f"{value.isoformat()} has no time and zone; write {value.isoformat()}T00:00:00Z")  # noqa: TRY004  pydantic turns ValueError into a problem
    raise ValueError(f"{value!r} is not a time; write it as 2026-12-01T00:00:00Z")


def _hold(value: object) -> float:
    seconds = parse_duration(value)
    if not 0 < seconds <= MAX_HOLD:
        raise ValueError(f"{value!r} is out of bounds; a call may wait from 1ms to {MAX_HOLD:.0f}s")
    return seconds


def _idle(value: object) -> float:
    seconds = parse_duration(value)
    if not MIN_IDLE <= seconds <= MAX_IDLE:
        raise ValueError(f"{value!r} is out of bounds; write something from 1s to 7d, such as 2h")
    return seconds


def _min_age(value: object) -> float:
    seconds = parse_duration(value)
    if seconds > MAX_MIN_AGE:
        raise ValueError(f"{value!r} is out of bounds; write at most 3650d, such as 7d")
    return seconds


def _method(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a method; quote it: 'GET'")  # noqa: TRY004  as in parse_expiry
    if METHOD.fullmatch(value) is None:
        meant = value.upper()
        example = meant if METHOD.fullmatch(meant) is not None else "GET"
        raise ValueError(f"{value!r} is not a method; methods are upper-case words such as {example[:32]!r}")
    if value == "CONNECT":
        raise ValueError(
            "'CONNECT' opens tunnels and is decided by host and port; name the methods used inside, e.g. GET"
        )
    return value


def _field_name(value: object) -> str:
    if not isinstance(value, str) or _FIELD_NAME.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a header name; write one such as Authorization")
    check_injected_name(value)
    return value


def _field_value(value: object) -> str:
    if not isinstance(value, str) or not (value.isprintable() and value.isascii() and value.strip(" ")):
        raise ValueError("a header value is one line of printable ASCII; put secrets in the vault: ${vault:name}")
    check_template(value)
    return value


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class InjectDocument(_Document):
    header: Annotated[str, BeforeValidator(_field_name)]
    """Name of the header that the proxy adds."""
    value: Annotated[str, BeforeValidator(_field_value)]
    """Value of the header, with `${vault:NAME}` where the secret goes."""
    redact_echo: bool = True
    """A response that repeats the secret is replaced by a 502."""


class RegistryDocument(_Document):
    kind: Literal["npm", "pypi"]
    """The kind of registry whose metadata and files are read."""
    min_age: Annotated[float, BeforeValidator(_min_age)]
    """Releases that are younger are left out of the metadata, and their files refused."""
    allow: list[str] = []
    """Packages of any age."""
    index: str | None = None
    """Path of the client's setting. None: `/` for npm, `/simple/` for PyPI."""


class RuleDocument(_Document):
    """One entry of `allow` in its long form. It has a host or a network."""

    host: object = None
    """A name, `*.name`, `**.name`, or an address."""
    cidr: object = None
    """A network instead of a host."""
    ports: list[Annotated[int, Field(ge=1, le=65535)]] | None = Field(default=None, min_length=1)
    """Ports that it opens. None: 80 and 443."""
    methods: list[Annotated[str, BeforeValidator(_method)]] | None = Field(default=None, min_length=1)
    """Methods, in upper case. They open the TLS of the host. None: all."""
    paths: list[str] | None = Field(default=None, min_length=1)
    """Path patterns, such as `/repos/**`. They open the TLS of the host. None: all."""
    protocols: list[Literal["tls", "tcp", "ssh"]] | None = Field(default=None, min_length=1)
    """What a tunnel may carry; `tcp` is anything. None: TLS for the host that it was opened for."""
    addresses: list[Literal["private", "reserved"]] | None = Field(default=None, min_length=1)
    """Internal addresses that the name may have. None: public ones only."""
    expires: Annotated[float, BeforeValidator(parse_expiry)] | None = None
    """When the rule ends."""
    max_uses: int | None = Field(default=None, ge=1)
    """After so many tunnels and plain requests the rule ends."""
    idle: Annotated[float, BeforeValidator(_idle)] | None = None
    """How long a flow may be silent, and an answer late, from 1s to 7d. None: as `proxy.idle_timeout` and
    `proxy.response_timeout` say."""
    inject: InjectDocument | None = None
    """A header with a secret that the proxy adds. It opens the TLS of the host."""
    registry: RegistryDocument | None = None
    """Nothing of this package registry that is too young. It opens the TLS of the host."""
    reason: str = ""
    """Why the rule is there; shown in `list` and in the log."""


class DenyDocument(_Document):
    """One entry of `deny` in its long form: it covers every port and method of its host or network."""

    host: object = None
    """As in `allow`."""
    cidr: object = None
    """A network instead of a host."""
    paths: list[str] | None = Field(default=None, min_length=1)
    """Only these paths. None: all of the host."""
    except_: list[str] | None = Field(default=None, min_length=1, alias="except")
    """Hosts that the deny leaves to the other rules."""
    expires: Annotated[float, BeforeValidator(parse_expiry)] | None = None
    """When the deny ends."""
    reason: str = ""
    """Why it is there; shown in `list` and in the log."""


class PresetRuleDocument(_Document):
    """One entry of a preset's `allow` in its long form.

    A preset is written by somebody else than the person who uses it, so it has only those keys of a rule that make it
    narrower or say where it applies: none that opens addresses, adds secrets or sets terms.
    """

    host: object
    """As in a policy."""
    ports: object = None
    """As in a policy."""
    methods: object = None
    """As in a policy."""
    paths: object = None
    """As in a policy."""
    protocols: object = None
    """As in a policy."""
    reason: str = ""
    """What the host is for."""


class PresetDocument(_Document):
    name: str
    """The name of the file."""
    about: str
    """What it is for, in one line."""
    source: str
    """The page that documents the hosts."""
    checked: date
    """When somebody last looked at that page."""
    allow: list[object] = Field(min_length=1)
    """Hosts, or rules in their long form."""
    quiet: list[object] = []
    """Hosts that are refused and recorded without an alarm."""


class LimitsDocument(_Document):
    concurrent: int | None = Field(default=None, ge=1)
    """Flows open at once."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Tunnels and requests that pass."""
    bytes_per_hour: Annotated[int, Field(ge=1), BeforeValidator(parse_size)] | None = None
    """Bytes in both directions together."""
    denials_per_minute: int | None = Field(default=None, ge=1)
    """Refused calls that are recorded one by one; more are answered 429 and counted. None:
    `audit.denials_per_minute`."""


def _empty_list(value: object) -> object:
    """A key with nothing below it, or only comments, is an empty list."""
    return [] if value is None else value


def _empty_mapping(value: object) -> object:
    return {} if value is None else value


type _ListOf[T] = Annotated[list[T], BeforeValidator(_empty_list)]


class GlobalDocument(_Document):
    use: _ListOf[str] = []
    """Names of presets."""
    allow: _ListOf[object] = []
    """Hosts, or rules in their long form."""
    deny: _ListOf[object] = []
    """Hosts, or denies in their long form. A deny wins over every allow."""


class ToolDocument(GlobalDocument):
    inherit_global: bool = True
    """Whether the rules of `global` are the tool's, too; denies always are."""
    public: bool = False
    """The tool may reach the public internet, ports 80 and 443. Needs `limits`."""
    limits: LimitsDocument = LimitsDocument()
    """Bounds of this tool; more is answered 429."""
    mode: Literal["enforce", "report"] | None = None
    """As `mode` of the policy, for this tool alone. None: that of the policy."""
    on_deny: Literal["refuse", "ask"] = "refuse"
    """`ask`: a denied call becomes a request for a person."""
    hold: Annotated[float, BeforeValidator(_hold)] | None = None
    """With `on_deny: ask`: how long the call waits for the answer, at most 60s. None: not at all."""
    may_request: list[str] = ["self"]
    """For whom the tool may ask: `self`, `global`, other tools."""


class TestDocument(_Document):
    tool: str | None = None
    """Who calls. None: a caller without a credential."""
    allow: _ListOf[str] = []
    """URLs that must pass."""
    deny: _ListOf[str] = []
    """URLs that must not."""


class PolicyDocument(_Document):
    version: Literal[1]
    """The form of this file."""
    mode: Literal["enforce", "report"] = "enforce"
    """`report`: what would be denied passes, and is recorded."""
    anonymous: Literal["global", "challenge", "deny"] = "deny"
    """Callers of the host listener without a credential. `global`: they get the global rules; `challenge`: the
    same, and a 407 for what these do not allow but those of a tool might; `deny`: nothing."""
    global_: Annotated[GlobalDocument, BeforeValidator(_empty_mapping)] = Field(
        default=GlobalDocument(), alias="global"
    )
    """Rules for every tool that inherits them."""
    tools: Annotated[
        dict[str, Annotated[ToolDocument, BeforeValidator(_empty_mapping)]], BeforeValidator(_empty_mapping)
    ] = {}
    """By its id, the rules of a tool."""
    tests: _ListOf[TestDocument] = []
    """What must pass and what must not; a failing one rejects the file."""
