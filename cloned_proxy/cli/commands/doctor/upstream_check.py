"""Whether the proxy in front answers and takes its credential: for `doctor` and `status`."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Final

from cloned_proxy.cli.commands.doctor.checks import Check
from cloned_proxy.proxy.upstream.chained.front import basic
from cloned_proxy.proxy.upstream.chained.pac import PacFile
from cloned_proxy.proxy.upstream.chained.place import Place, place_of
from cloned_proxy.proxy.upstream.lookup import look_up
from cloned_proxy.proxy.wire.response import ResponseError, parse_response
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from cloned_proxy.store.settings.upstream_tls import verifying_context
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace

_SECONDS: Final = 3.0
_MAX_HEAD: Final = 16_384
_NOWHERE: Final = "255.255.255.255"
_QUESTION: Final = f"OPTIONS http://{_NOWHERE}/ HTTP/1.1\r\nHost: {_NOWHERE}\r\nConnection: close\r\n"
"""About an address that TCP never dials (RFC 1122, section 4.2.3.10), so that the answer is the proxy's own, and comes
at once. A name, also one that never is, is looked up first, for as long as the proxy's name servers are silent. Not
with `Max-Forwards: 0`: that Squid answers without having looked at the credential."""


class UpstreamProblemError(Exception):
    """What is wrong, and the fix."""

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.fix: Final = fix


class UpstreamSlowError(UpstreamProblemError):
    """The proxy takes connections, but did not answer in time about a reserved name: some look that up first."""


def upstream_check(workspace: Workspace) -> Check:
    """Raises StoreError for settings that are not valid."""
    settings = workspace.config().upstream
    if not settings.wanted:
        return Check("upstream", "ok", "none: what is allowed is reached directly")
    name = settings.proxy or settings.pac
    try:
        ask_upstream(workspace, settings)
    except UpstreamSlowError as problem:
        return Check("upstream", "warn", f"{name} {problem}", problem.fix)
    except UpstreamProblemError as problem:
        return Check("upstream", "fail", f"{name} {problem}: nothing gets out", problem.fix)
    if settings.resolve == "upstream":
        detail = f"{name} answers, and looks names up: no address class is checked, a name may lead anywhere"
        return Check("upstream", "warn", detail, "set `resolve: here`, unless that proxy takes nothing but names")
    return Check("upstream", "ok", f"{name} {what_is_known(str(name))}")


def what_is_known(name: str) -> str:
    """What is known when `ask_upstream` has raised nothing, for people. The name is a proxy's URL or a PAC file."""
    return "answers" if "://" in name else "is read; it says at each call which proxy to take"


def ask_upstream(workspace: Workspace, settings: UpstreamSettings) -> None:
    """Returns when it answers as a proxy does. Raises UpstreamProblemError, and StoreError for its files."""
    if settings.pac is not None:  # which proxy that is, depends on who asks for what
        PacFile(workspace.root / Path(settings.pac).expanduser()).close()
        return
    head = _QUESTION
    if settings.secret is not None:
        head += f"Proxy-Authorization: {_credential(workspace, settings.secret)}\r\n"
    try:
        status = _answer(settings, workspace, f"{head}\r\n".encode())
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or type(error).__name__
        raise UpstreamProblemError(
            f"cannot be verified ({reason})", "name its CA in `upstream: {ca_files: […]}`, or write http://"
        ) from error
    except ResponseError as error:
        raise UpstreamProblemError("does not answer like an HTTP proxy", "put `upstream: {proxy: …}` right") from error
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UpstreamProblemError(
            f"does not answer ({reason})", "put `upstream: {proxy: …}` right, or start it"
        ) from error
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        fix = "`cloned-proxy vault set upstream.proxy` (user:password) and `auth: ${vault:upstream.proxy}`"
        raise UpstreamProblemError("wants another credential (407)", fix)


def _credential(workspace: Workspace, name: str) -> str:
    fix = f"`cloned-proxy vault set {name}` with user:password"
    secret = Vault(workspace, workspace.config().vault.key).secrets().get(name)
    if secret is None:
        raise UpstreamProblemError(f"is not asked (the vault holds no {name})", fix)
    if ":" not in secret.value:
        raise UpstreamProblemError(f"is not asked (the secret {name} is not user:password)", fix)
    return basic(secret.value)


def _answer(settings: UpstreamSettings, workspace: Workspace, question: bytes) -> int:
    """The status. Raises OSError, ssl.SSLError and ResponseError."""
    place = place_of(settings.proxy or "")
    name = place.host.text
    with ExitStack() as stack:
        sock = stack.enter_context(_connected(place))
        if settings.secure:
            context = verifying_context(settings, workspace.root)
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=name))
        try:
            sock.sendall(question)
            return _status(sock)
        except TimeoutError as error:
            raise UpstreamSlowError(
                f"takes connections, and has not answered within {_SECONDS:.0f} s", "ask again, and look at its log"
            ) from error


def _status(sock: socket.socket) -> int:
    received = b""
    while b"\r\n\r\n" not in received and len(received) < _MAX_HEAD:
        piece = sock.recv(4096)
        if not piece:
            raise ConnectionResetError("it closed the connection")
        received += piece
    return parse_response(received.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", max_fields=200).status


def _connected(place: Place) -> socket.socket:
    failure = OSError("no address")
    for address in look_up(place.host.text) if place.host.address is None else (place.host.address,):
        try:
            return socket.create_connection((str(address), place.port), timeout=_SECONDS)
        except OSError as error:
            failure = error
    raise failure
