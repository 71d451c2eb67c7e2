"""`upstream:` of config.yaml: the proxy in front of this one, through which everything goes that is allowed."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, model_validator

from cloned_proxy.policy.deciding.bypass import read_bypass
from cloned_proxy.policy.secrets.secret import check_template, references
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.store.files.strict_model import StrictModel

_FIX: Final = "write one such as http://proxy.example.com:3128"
_MAX_PORT: Final = 65_535


def _proxy_url(text: str) -> str:
    """What is wrong is said without quoting it: people put passwords into URLs."""
    if text.lower().startswith("socks"):
        raise ValueError(f"a SOCKS proxy is not spoken to; {_FIX}, or put one in front that speaks HTTP")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.port is not None and 0 < parts.port <= _MAX_PORT
    except ValueError:
        usable, parts = False, SplitResult("", "", "", "", "")
    if "@" in parts.netloc:
        raise ValueError(
            "a password does not belong into this file; take it out of the URL, run `cloned-proxy vault set "
            "upstream.proxy` (user:password), and write `auth: ${vault:upstream.proxy}`"
        )
    if not usable or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"this is not the URL of an HTTP proxy: http or https, host and port, nothing else; {_FIX}")
    try:
        parse_host(parts.hostname)
    except HostError as error:
        raise ValueError(f"{error}; {_FIX}") from error
    return text


def _auth(text: str) -> str:
    check_template(text)
    if len(references(text)) != 1 or not text.startswith("${vault:") or not text.endswith("}"):
        raise ValueError(
            "the credential is kept in the vault, as user:password; write ${vault:upstream.proxy}, and set it with "
            "`cloned-proxy vault set upstream.proxy`"
        )
    return text


def _no_proxy(entries: list[str]) -> list[str]:
    read_bypass(entries)
    return entries


class UpstreamSettings(StrictModel):
    """Set by the operator alone: nothing that a tool sends changes it, and no tool is told of it."""

    proxy: Annotated[str, AfterValidator(_proxy_url)] | None = None
    """`http://` or `https://`, which is the way to the proxy itself. None: there is none."""
    no_proxy: Annotated[list[str], AfterValidator(_no_proxy)] = Field(default_factory=list)
    """What is reached directly: names, `.suffixes`, addresses, networks."""
    auth: Annotated[str, AfterValidator(_auth)] | None = None
    """`${vault:NAME}`; the vault holds `user:password`, which is sent as Basic (RFC 7617)."""
    resolve: Literal["here", "upstream"] = "here"
    """`here`: tunnels go to an address that was checked. `upstream`: by name, and no address class is checked."""
    pac: str | None = None
    """PAC file instead of `proxy`, relative to the workspace; needs the extra `pac`. Its DIRECT is not taken."""
    ca_files: list[str] = Field(default_factory=list)
    """PEM files with CAs that an `https://` proxy may chain to beside the system's, relative to the workspace."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.wanted and self.model_fields_set:
            raise ValueError(f"`proxy` is missing; {_FIX}, or take `upstream` out")
        if self.proxy is not None and self.pac is not None:
            raise ValueError("`proxy` and `pac` are two answers to one question; take one of them out")
        if self.ca_files and not self.may_be_secure:
            raise ValueError("`ca_files` are for a proxy that is reached by https://")
        return self

    @property
    def wanted(self) -> bool:
        """Whether there is a proxy in front."""
        return self.proxy is not None or self.pac is not None

    @property
    def may_be_secure(self) -> bool:
        """Whether a proxy in front may be reached by TLS."""
        return self.secure or self.pac is not None

    @property
    def secure(self) -> bool:
        """Whether the way to the proxy itself is TLS."""
        return self.proxy is not None and self.proxy.startswith("https:")

    @property
    def secret(self) -> str | None:
        """Name of the credential in the vault."""
        return None if self.auth is None else references(self.auth)[0]
