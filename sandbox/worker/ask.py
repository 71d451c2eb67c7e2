#!/usr/bin/env python3
"""`cloned-ask`: a tool in the sandbox asks the owner of the policy for a host, and waits for the answer.

The request goes to http://cloned.internal, where the proxy itself answers; who asks it knows without a credential.
Exit 0 granted, 1 refused or not decided in time, 2 bad usage.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

REQUESTS = "http://cloned.internal/v1/egress/requests"
WAIT = 100.0
"""Seconds by default: agents end a command of theirs after two minutes."""
MAX_ANSWER = 65_536
ANSWER_SECONDS = 15.0
EPILOG = """\
examples:
  cloned-ask api.example.com "release notes for the changelog"
  cloned-ask --for 30m db.example.com:5432 "one migration"
  cloned-ask a-0123456789          # waits on for a request that was made before

Exit 0 granted, 1 refused or not decided in time, 2 bad usage.
"""


class AskError(Exception):
    """Not granted; the message is for whoever asked."""


class BusyError(Exception):
    """Too many calls; after so many seconds it may be tried again."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


def main(words: list[str]) -> int:
    """Runs the command; returns its exit code."""
    given = read_words(words)
    ends = time.monotonic() + given.wait
    try:
        if re.fullmatch(r"a-[0-9a-f]{10}", given.what):
            request = patiently({}, f"/{given.what}", ends)
        else:
            update = {"domains": [given.what], "for": given.lasting, "uses": given.uses, "reason": " ".join(given.why)}
            request = patiently({name: value for name, value in update.items() if value}, "", ends)
        return wait_for(request, ends)
    except (AskError, BusyError) as error:
        print(f"cloned-ask: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def read_words(words: list[str]) -> argparse.Namespace:
    """The command line. Exits with 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="cloned-ask",
        description="Ask the owner of this sandbox's egress policy for a host, and wait for the answer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="HOST[:PORT]|URL|ID", help="what is needed, or a request made before")
    parser.add_argument("why", nargs="*", metavar="WHY", help="the reason, for the person who decides")
    parser.add_argument("--for", dest="lasting", metavar="TIME", help="for so long only, such as 30m")
    parser.add_argument("--uses", type=int, metavar="N", help="for so many calls only")
    parser.add_argument("--wait", type=float, default=WAIT, metavar="SECONDS", help="how long (default: %(default)g)")
    given = parser.parse_args(words)
    if not 0 <= given.wait < float("inf"):
        parser.error("--wait: write a number of seconds")
    try:
        given.what = host_of(given.what)
    except ValueError as error:
        parser.error(f"{given.what!r} is not a host: {error}")
    return given


def host_of(text: str) -> str:
    """`host` or `host:port` of what may be a URL. Raises ValueError."""
    if "://" not in text:
        return text
    parts = urllib.parse.urlsplit(text)
    if not parts.hostname:
        raise ValueError("it names none")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host if parts.port is None else f"{host}:{parts.port}"


def wait_for(request: dict[str, Any], ends: float) -> int:
    """Waits until somebody has decided. Raises AskError and BusyError."""
    name, asked = request["id"], request["asked"]
    if request["state"] == "pending" and not request["in_force"]:
        seconds = max(0.0, ends - time.monotonic())
        print(f"cloned-ask: asked: {asked}; a person decides ({name}, waiting {seconds:.0f} s)", file=sys.stderr)
    # A yes acts a moment after it was given: until then the next call would be refused once more.
    while not request["in_force"] and request["state"] in ("pending", "approved"):
        left = ends - time.monotonic()
        if left <= 0:
            what = "nobody has decided yet" if request["state"] == "pending" else "approved, but not in force"
            raise AskError(f"{what}; `cloned-ask {name}` waits on")
        time.sleep(min(left, 0.2 if request["state"] == "approved" else 2.0))
        request = patiently({}, f"/{name}", ends)
    why = f": {request['reason']}" if request["reason"] else ""
    if not request["in_force"]:
        raise AskError(f"{request['state']}: {asked}{why}")
    print(f"granted: {asked}{why}")
    return 0


def patiently(update: dict[str, Any], path: str, ends: float) -> dict[str, Any]:
    """One call, again after a while where there were too many. Raises AskError and BusyError."""
    while True:
        try:
            return call(update, path)
        except BusyError as busy:
            if time.monotonic() + busy.seconds > ends:
                raise
            time.sleep(busy.seconds)


def call(update: dict[str, Any], path: str) -> dict[str, Any]:
    """POST with an update, else GET. Raises AskError and BusyError."""
    data = json.dumps(update).encode() if update else None
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(REQUESTS + path, data=data, headers=headers)  # noqa: S310  the one URL above
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310  the same
            found: dict[str, Any] = json.loads(answer.read(MAX_ANSWER))
            return found
    except urllib.error.HTTPError as error:
        said = message_of(error)
        if error.code == http.client.TOO_MANY_REQUESTS:
            raise BusyError(said, float(error.headers.get("Retry-After") or 1)) from error
        if error.code == http.client.CONFLICT and data is not None:
            return {"id": "", "state": "approved", "in_force": True, "asked": update["domains"][0], "reason": said}
        raise AskError(said) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise AskError(f"no answer from the proxy ({why}); is this a sandbox of cloned-proxy?") from error


def message_of(error: urllib.error.HTTPError) -> str:
    """What the proxy says of its refusal."""
    try:
        answer = json.loads(error.read(MAX_ANSWER))
        return str(answer.get("message") or answer["hint"])
    except (OSError, ValueError, KeyError, AttributeError, http.client.HTTPException):
        return f"the proxy answered {error.code}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
