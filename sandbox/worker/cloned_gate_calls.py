"""The three tools of `cloned_gate`: each asks `http://cloned.internal` through the tool's own proxy."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

OWN = "http://cloned.internal/v1/egress"
POLL_SECONDS = 1.0
PROGRESS_SECONDS = 5.0
WAIT_SECONDS = 45.0
"""Clients give a call 60 seconds unless told otherwise."""
MAX_WAIT = 600.0

REASONS = {
    "host_not_allowed": "no rule allows this host",
    "port_not_allowed": "the host is allowed, but not on this port",
    "method_not_allowed": "the host is allowed, but not with this method",
    "path_not_allowed": "the host is allowed, but not this path",
    "explicit_deny": "a rule denies this host; nobody but a person who changes that rule can open it",
    "ip_literal": "addresses are allowed only where a rule names that very address; use the host's name",
    "address_not_allowed": "the name leads to an address that its rule does not open",
    "protocol_not_allowed": "a tunnel must carry TLS; use https",
    "lease_expired": "the host was allowed for a time that is over",
    "lease_used_up": "the host was allowed for a number of calls that are used up",
    "limit_exceeded": "too many calls; wait and try again",
    "store_unavailable": "the host is allowed for a number of calls, which cannot be counted now; try again later",
    "allowed": "a rule allows this",
}


class GateError(Exception):
    """What a call is answered with in place of a result."""


def why_denied(proxy: str, *, url: str = "", method: str = "GET") -> dict[str, Any]:
    """What was refused, or whether one call would pass. Raises GateError."""
    denials = _ask(proxy, "/denials")["denials"]
    if not url:
        lines = [_line(each) for each in denials]
        text = (
            "\n".join(["Refused in the last 24 hours, the newest first:", *lines]) if lines else "Nothing was refused."
        )
        return content(text)
    query = urllib.parse.urlencode({"url": url if "://" in url else f"https://{url}/", "method": method})
    verdict = _ask(proxy, f"/verdict?{query}")
    refused = verdict["verdict"] == "deny"
    seen = [each for each in denials if each["host"] == verdict["host"]]
    lines = [f"{method} {verdict['url']} {'is refused' if refused else 'passes'}: {_meaning(verdict['reason'])}."]
    lines += ["Refused before:", *map(_line, seen)] if seen else []
    if refused:
        lines.append(
            f'If the task needs it: request_access(hosts=["{verdict["host"]}"], reason="…"); a person decides.'
        )
    return content("\n".join(lines))


def my_rules(proxy: str) -> dict[str, Any]:
    """What passes. Raises GateError."""
    rules = _ask(proxy, "/rules")
    lines = [f"{rules['tool']} may reach:", *(f"- {_rule(rule)}" for rule in rules["allow"])]
    if not rules["allow"]:
        lines = [f"{rules['tool']} may reach nothing."]
    if rules["default"] == "allow":
        lines = [f"{rules['tool']} is in report mode: everything passes and is recorded. Its rules:", *lines[1:]]
    lines += [f"- never {host}" for host in rules["deny"]]
    lines.append("Everything else is refused; request_access asks a person for more.")
    return content("\n".join(lines))


def request_access(
    proxy: str,
    cancelled: threading.Event,
    progress: Callable[[float], None],
    *,
    hosts: list[str] | None = None,
    reason: str = "",
    request_id: str = "",
    wait_seconds: float = WAIT_SECONDS,
) -> dict[str, Any]:
    """Opens a request, or takes up an earlier one, and waits until it is decided. Raises GateError."""
    if request_id:
        request = _ask(proxy, f"/requests/{urllib.parse.quote(request_id, safe='')}")
    elif isinstance(hosts, list) and hosts and reason.strip():
        request = _ask(proxy, "/requests", {"domains": hosts, "reason": reason})
    else:
        raise GateError("name the hosts, and the reason that a person will read")
    began, told = time.monotonic(), 0.0
    wait = min(max(float(wait_seconds), 0.0), MAX_WAIT)
    # A yes acts a moment after it was given.
    while (request["state"] == "pending" or _comes(request)) and (passed := time.monotonic() - began) < wait:
        if passed - told >= PROGRESS_SECONDS:
            progress(round(passed, 1))
            told = passed
        if cancelled.wait(min(POLL_SECONDS, wait - passed)):
            break
        request = _ask(proxy, f"/requests/{request['id']}")
    said = f" ({request['reason']})" if request.get("reason") else ""
    text = {
        "pending": f"Still waiting for a person. Request {request['id']}: {request['asked']}. Nothing is allowed yet; "
        f'wait on with request_access(request_id="{request["id"]}").',
        "approved": f"Approved: {request['asked']}{said}. my_rules shows what passes now; try the call again.",
        "rejected": f"Rejected: {request['asked']}{said}. Do without these hosts.",
    }.get(request["state"], f"{request['state']}: {request['asked']}{said}. Nothing is allowed by it.")
    return content(text)


def _comes(request: Mapping[str, Any]) -> bool:
    """Whether it was approved and does not act yet."""
    return request["state"] == "approved" and not request.get("in_force", True)


def _ask(proxy: str, path: str, body: Any = None) -> Any:
    """The proxy's own answer. Raises GateError with its words."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{OWN}{path}", data=data)  # noqa: S310  always http
    request.add_header("Accept", "application/json")
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with opener.open(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        try:
            said = json.loads(error.read())
            told = said.get("message") or f"{said.get('reason')}: {said.get('hint')}"
        except (ValueError, AttributeError):
            told = f"status {error.code}"
        raise GateError(f"the proxy answered: {told}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise GateError(f"the proxy does not answer ({why}); it may be stopped") from error


def known(given: dict[str, Any], *names: str) -> dict[str, Any]:
    """The arguments without what was left out. Raises GateError for names and kinds that no tool has."""
    kinds: dict[str, Any] = {"hosts": list, "wait_seconds": (int, float)}
    for name, value in given.items():
        if name not in names:
            raise GateError(f"there is no argument {name!r}; known: {', '.join(names) or 'none'}")
        if value is not None and not isinstance(value, kinds.get(name, str)):
            raise GateError(f"{name}: {value!r} is of another kind")
    return {name: value for name, value in given.items() if value is not None}


def _line(denial: Mapping[str, Any]) -> str:
    times = f", {denial['count']} times" if denial["count"] > 1 else ""
    return f"- {denial['method'] or ''} {denial['host']}:{denial['port']}: {_meaning(denial['reason'])}{times}"


def _meaning(reason: str) -> str:
    return f"{reason}: {REASONS[reason]}" if reason in REASONS else reason


def _rule(rule: Mapping[str, Any]) -> str:
    words = [rule["host"], f"ports {', '.join(map(str, rule['ports']))}"]
    words += [",".join(rule["methods"])] if rule["methods"] else []
    words += [",".join(rule["paths"])] if rule["paths"] else []
    return " ".join(words)


def content(text: str, *, error: bool = False) -> dict[str, Any]:
    """The result of a call: text alone, because clients that get structured content as well show a model only that."""
    return {"content": [{"type": "text", "text": text}], "isError": error}
