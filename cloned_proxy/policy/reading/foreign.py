"""Allowlists of other programs, read into entries of a policy.

A wildcard is written as what it means in the program it comes from. What has no equal here, or would open more than it
did there, is refused with the reason; the rest is taken. Pure; `policy import` reads the files and writes the policy.

Sources: Squid `acl … dstdomain`, `dst` (cf.data.pre), smokescreen `pkg/smokescreen/acl/v1`, Claude Code's settings.json
(`sandbox.network`, `permissions`), HAR 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from cloned_proxy.policy.callers.tool_id import is_tool_id
from cloned_proxy.policy.terms.network import is_network, parse_destination
from cloned_proxy.policy.terms.rule import PatternKind
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE, OWN_HOST

type Action = Literal["allow", "deny"]

_WEB_FETCH: Final = re.compile(r"WebFetch\(domain:(.*)\)")
_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_MAX_SHOWN: Final = 100
_WHO: Final = frozenset({"src", "proxy_auth", "ident", "srcdomain", "arp", "eui64", "user_cert"})
"""Types of Squid's acls that say who asks, which is a tool's matter here."""
_BUILT_IN: Final = {"localhost": "src", "localnet": "src"}


@dataclass(frozen=True, slots=True)
class WantedHost:
    """One host of the list."""

    scope: str
    """`global`, or the tool id."""
    action: Action
    host: str
    """A pattern or a network as a policy has it, in canonical form."""
    ports: tuple[int, ...] = ()
    """None named: those that a rule has by itself."""


@dataclass(slots=True)
class ForeignList:
    """What a list asks for, each once and in its order, and what of it is refused."""

    form: str
    wanted: dict[WantedHost, None] = field(default_factory=dict)
    refused: dict[tuple[str, str], None] = field(default_factory=dict)
    """(what stands there, why not)."""

    def take(self, scope: str, action: Action, text: object, *hosts: str, ports: tuple[int, ...] = ()) -> None:
        """`hosts` is what `text` means here; with one that is no pattern none of them is taken."""
        new: list[WantedHost] = []
        for host in hosts:
            try:
                pattern = parse_destination(host, denies=action == "deny")
            except ValueError as error:
                self.refuse(text, str(error))
                return
            if pattern.kind is PatternKind.ADDRESS and action == "allow":
                self.refuse(text, f"an address; if it is meant, `cloned-proxy allow {host}` opens it")
                return
            if pattern.value == OWN_HOST:
                self.refuse(text, f"{OWN_HOST} is the proxy itself and needs no rule")
                return
            new.append(WantedHost(scope, action, str(pattern), ports))
        self.wanted |= dict.fromkeys(new)

    def refuse(self, text: object, why: str) -> None:
        shown = text if isinstance(text, str) else repr(text)
        self.refused[shown[:_MAX_SHOWN], why] = None


def read_squid(text: str, scope: str) -> ForeignList:
    """A file of domains and networks, one or more a line, or a squid.conf with `acl NAME dstdomain …` or `dst …`.

    Squid lets any name pass that resolves into an allowed `dst`; here a network is for literals, and for the addresses
    of names that are allowed by themselves.
    """
    found = ForeignList("Squid dstdomain list")
    acls = _Acls()
    accesses: list[list[str]] = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["acl"] and len(words) > 2:  # noqa: PLR2004  acl NAME TYPE
            acls.add(words, found)
        elif words[:1] == ["http_access"] and words[1:2] in (["allow"], ["deny"]):
            accesses.append(words)
        elif not acls.types and (len(words) == 1 or all("." in word for word in words)):
            for word in words:
                if "." in word or is_network(word):
                    _take_squid(found, scope, "allow", word)
                else:
                    found.refuse(word, "it has no dot; for a host of your own network: `cloned-proxy allow NAME`")
    for words in accesses or [["http_access", "allow", name] for name in acls.domains]:
        _take_access(found, scope, words, acls)
    return found


def _take_access(found: ForeignList, scope: str, words: list[str], acls: _Acls) -> None:
    if why := acls.why_not(words):
        found.refuse(" ".join(words), why)
        return
    action: Action = "allow" if words[1] == "allow" else "deny"
    for name in words[2:]:
        for word in acls.domains.get(name, ()):
            _take_squid(found, scope, action, word)


@dataclass(slots=True)
class _Acls:
    """The acls of a squid.conf: the domains of some, the types of the others."""

    domains: dict[str, list[str]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def add(self, words: list[str], found: ForeignList) -> None:
        _, name, kind, *values = words
        self.types[name] = kind
        if kind in ("dstdomain", "dst"):
            self.domains.setdefault(name, []).extend(value for value in values if value not in ("-n", "--"))
        elif kind == "dstdom_regex":
            found.refuse(" ".join(words), "a regular expression; write the hosts it is for")

    def why_not(self, words: list[str]) -> str:
        """Why an `http_access` line about domains is not taken; "" where it is, or is not about any."""
        _, action, *names = words
        if not any(name.lstrip("!") in self.domains for name in names):
            return ""
        if any(name.startswith("!") and name[1:] in self.domains for name in names):
            return "everything but a list; there is no such rule here"
        others = [name for name in names if name not in self.domains]
        if len(names) - len(others) > 1:
            return "lists that must all match; a rule here has one, so write what is in all of them"
        if action == "deny" and others:
            return "a deny on a condition; here a deny has none, so write it by hand if it is meant for all"
        if any(self.types.get(name, _BUILT_IN.get(name)) not in _WHO for name in others):
            return "on a condition beside who asks; write the rule by hand, as narrow as it is there"
        return ""


def _take_squid(found: ForeignList, scope: str, action: Action, word: str) -> None:
    if word.startswith('"'):
        found.refuse(word, "the list is in another file; import that file")
    elif word.startswith("."):  # the domain itself and everything below it
        found.take(scope, action, word, word[1:], f"**{word}")
    else:
        found.take(scope, action, word, word)


def read_smokescreen(document: Mapping[Any, Any], scope: str) -> ForeignList:
    """An ACL of version v1: `services` become tools of their names."""
    found = ForeignList("smokescreen ACL")
    services = document.get("services")
    listed = services if isinstance(services, list) else []
    for service in listed:
        name = service.get("name") if isinstance(service, dict) else None
        if not isinstance(service, dict) or not isinstance(name, str) or not is_tool_id(name):
            found.refuse(f"service {name!r}", "its name is no tool id; rename it to one such as cloned.web.search@v1")
            continue
        _take_service(found, name, f"service {name}", service)
    default = document.get("default")
    if isinstance(default, dict):
        if listed:
            found.refuse(
                "default", "it is for services without an entry; here the global rules would hold for the named, too"
            )
        else:
            _take_service(found, scope, "default", default)
    lists: tuple[tuple[str, Action], ...] = (("global_allow_list", "allow"), ("global_deny_list", "deny"))
    for key, action in lists:
        for glob in _texts(found, key, document.get(key)):
            _take_glob(found, scope, action, glob)
    return found


def _take_service(found: ForeignList, scope: str, place: str, service: Mapping[Any, Any]) -> None:
    action = service.get("action")
    if action == "open":
        found.refuse(place, "its action is open, which lets everything pass; only its allowed_domains are added")
    elif action == "report":
        found.refuse(
            place,
            f"its action is report; for that write `mode: report` for {scope}. its domains are added all the same",
        )
    for glob in _texts(found, f"{place}.allowed_domains", service.get("allowed_domains")):
        _take_glob(found, scope, "allow", glob)


def _take_glob(found: ForeignList, scope: str, action: Action, glob: str) -> None:
    """`*.example.com` of smokescreen and of Claude Code: any depth below, not the domain itself."""
    found.take(scope, action, glob, f"**.{glob[2:]}" if glob.startswith("*.") else glob)


def read_claude_code(document: Mapping[Any, Any], scope: str) -> ForeignList:
    """settings.json: what its sandbox and its WebFetch tool may reach."""
    found = ForeignList("Claude Code settings")
    sandbox = document.get("sandbox")
    network = sandbox.get("network") if isinstance(sandbox, dict) else None
    permissions = document.get("permissions")
    lists: tuple[tuple[str, Action], ...] = (("allowedDomains", "allow"), ("deniedDomains", "deny"))
    for key, action in lists:
        for glob in _texts(found, f"sandbox.network.{key}", network.get(key) if isinstance(network, dict) else None):
            _take_glob(found, scope, action, glob)
    fetch: tuple[Action, Action] = ("allow", "deny")
    for action in fetch:
        said = permissions.get(action) if isinstance(permissions, dict) else None
        for text in _texts(found, f"permissions.{action}", said):
            if domain := _WEB_FETCH.fullmatch(text):
                _take_glob(found, scope, action, domain[1])
            elif text.startswith("WebFetch") and action == "allow":
                found.refuse(text, "every host; name those that are meant")
    return found


def read_har(document: Mapping[Any, Any], scope: str) -> ForeignList:
    """What a browser or client has called: exact hosts, each with the ports that were used."""
    found = ForeignList("HAR")
    log = document.get("log")
    entries = log.get("entries") if isinstance(log, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        request = entry.get("request") if isinstance(entry, dict) else None
        url = request.get("url") if isinstance(request, dict) else None
        if not isinstance(url, str):
            found.refuse(entry, "an entry without request.url")
            continue
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            found.refuse(url, "not a URL")
            continue
        if parts.scheme in _PORTS and port is not None:
            found.take(scope, "allow", parts.netloc.rpartition("@")[2], parts.hostname or "", ports=(port,))
        elif parts.scheme not in ("data", "blob", "about", "chrome-extension", "file"):
            found.refuse(url, f"{parts.scheme or 'no scheme'}: nothing that goes through an HTTP proxy")
    return found


def _texts(found: ForeignList, place: str, value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        found.refuse(place, "not a list")
        return []
    for entry in value:
        if not isinstance(entry, str):
            found.refuse(f"{place}: {entry!r}", "not a text")
    return [entry for entry in value if isinstance(entry, str)]


def reader_of(document: object) -> Callable[[Mapping[Any, Any], str], ForeignList] | None:
    """Which of the forms with a structure this is; None for none of them."""
    if not isinstance(document, dict):
        return None
    log = document.get("log")
    if isinstance(log, dict) and "entries" in log:
        return read_har
    if {"services", "global_allow_list", "global_deny_list"} & document.keys():
        return read_smokescreen
    if {"sandbox", "permissions"} & document.keys():
        return read_claude_code
    return None


def scope_of(tool: str | None) -> str:
    """Where the hosts of a list without scopes of its own go."""
    return GLOBAL_SCOPE if tool is None else tool
