#!/usr/bin/env python3
"""`cloned-connect HOST PORT`: a tunnel through the proxy of the environment, on stdin and stdout.

The ProxyCommand of ssh in a sandbox whose names nobody answers for, and what `cloned-proxy connect` runs outside: only
the standard library, no file beside it. Exit 0 done, 1 refused or cut, 2 bad usage.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import socket
import sys
import threading
import urllib.parse

VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
NAME = "CLONED_CONNECT_NAME"
"""The variable by which another program says what it is called in messages."""
CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 120.0
"""The proxy may dial several addresses, and hold a call for the answer of a person (60 s)."""
MAX_ANSWER = 65_536
MAX_PORT = 65_535
BLOCK = 262_144
END = b"\r\n\r\n"
GRANTED = range(200, 300)
EPILOG = """\
examples:
  ssh -o ProxyCommand='cloned-connect %h %p' git@git.example.com
  GIT_SSH_COMMAND="ssh -o ProxyCommand='cloned-connect %h %p'" git clone git@git.example.com:a/b.git

Exit 0 done, 1 refused or cut, 2 bad usage.
"""


class TunnelError(Exception):
    """There is no tunnel; the message is for whoever asked."""


def main(words: list[str]) -> int:
    """Runs the command; returns its exit code."""
    name = os.environ.get(NAME, "cloned-connect")
    given = read_words(words)
    try:
        sock, first = tunnel(proxy_of(dict(os.environ)), given.host, given.port)
        return relay(sock, first)
    except TunnelError as error:
        print(f"{name}: {given.host}:{given.port}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def read_words(words: list[str]) -> argparse.Namespace:
    """The command line. Exits with 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="cloned-connect",
        description="Open a tunnel through the proxy of this sandbox, on stdin and stdout.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("host", metavar="HOST", help="a name, or an address without brackets")
    parser.add_argument("port", metavar="PORT", type=int)
    given = parser.parse_args(words)
    if re.fullmatch(r"[A-Za-z0-9._:-]{1,255}", given.host) is None:
        parser.error(f"{given.host!r} is no host; international names are written as xn--...")
    if not 0 < given.port <= MAX_PORT:
        parser.error(f"{given.port} is no port")
    return given


def proxy_of(environment: dict[str, str]) -> urllib.parse.SplitResult:
    """The URL of the proxy. Raises TunnelError."""
    text = next((environment[name] for name in VARIABLES if environment.get(name)), "")
    if not text:
        raise TunnelError("no proxy is set in HTTPS_PROXY")
    try:
        proxy = urllib.parse.urlsplit(text)
        if proxy.scheme == "http" and proxy.hostname and proxy.port:
            return proxy
    except ValueError:
        pass  # said below
    raise TunnelError("HTTPS_PROXY is not http://HOST:PORT")


def tunnel(proxy: urllib.parse.SplitResult, host: str, port: int) -> tuple[socket.socket, bytes]:
    """A socket behind the proxy's 200, and what has come of the server already. Raises TunnelError."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{credential(proxy)}\r\n"
    try:
        sock = socket.create_connection((proxy.hostname or "", proxy.port or 0), CONNECT_SECONDS)
    except OSError as error:
        raise TunnelError(f"no proxy answers at {proxy.hostname}:{proxy.port} ({error.strerror or error})") from error
    try:
        sock.settimeout(ANSWER_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(head.encode("ascii"))
        first = behind_answer(sock)
        sock.settimeout(None)
    except OSError as error:
        sock.close()
        raise TunnelError(f"the proxy does not answer ({error.strerror or error})") from error
    return sock, first


def behind_answer(sock: socket.socket) -> bytes:
    """What has come behind the 200. Raises TunnelError for any other answer, and OSError."""
    answer = bytearray()
    while END not in answer:
        data = sock.recv(4096)
        if not data or len(answer) > MAX_ANSWER:
            raise TunnelError("the proxy closed the connection without an answer")
        answer += data
    head, _, rest = answer.partition(END)
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3})(?: ([ -~]*))?(?:\r\n|$)", head)
    if status is None:
        raise TunnelError("what answers is no HTTP proxy")
    if int(status[1]) not in GRANTED:
        raise TunnelError(why_refused(int(status[1]), (status[2] or b"").decode(), sock, rest))
    return bytes(rest)


def credential(proxy: urllib.parse.SplitResult) -> str:
    """The header line for what stands in front of the proxy's host; "" for nothing (RFC 7617)."""
    if proxy.username is None:
        return ""
    user, password = urllib.parse.unquote(proxy.username), urllib.parse.unquote(proxy.password or "")
    return f"Proxy-Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}\r\n"


def why_refused(status: int, phrase: str, sock: socket.socket, body: bytearray) -> str:
    """What the proxy says of its refusal: the reason and what to do."""
    try:
        while len(body) < MAX_ANSWER and (data := sock.recv(4096)):
            body += data
        told = json.loads(body)
        why, fix = told.get("reason") or told["error"], told.get("hint") or told.get("phase", "")
        return f"{why}: {fix}" if fix else str(why)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return f"the proxy answers {status} {phrase}".rstrip()


def relay(sock: socket.socket, first: bytes) -> int:
    """Bytes both ways until both have ended: each side's end is told to the other by itself. Raises TunnelError."""
    sending = threading.Thread(target=send_all, args=(sock,), daemon=True)
    sending.start()
    try:
        write_all(first)
        while data := sock.recv(BLOCK):
            write_all(data)
    except BrokenPipeError:
        silence(1)  # whoever read it has gone
        return 1
    except OSError as error:
        why = error.strerror or error
        raise TunnelError(f"the connection was cut ({why}); the proxy's log says if it was the proxy") from error
    silence(1)
    # A program that still sends may do so. A person at a terminal would not know that nothing comes any more.
    if not os.isatty(0):
        sending.join()
    return 0


def send_all(sock: socket.socket) -> None:
    """What comes on stdin to the socket, up to its end."""
    try:
        while data := os.read(0, BLOCK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the other direction tells what became of the connection


def write_all(data: bytes) -> None:
    """To stdout, all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def silence(descriptor: int) -> None:
    """Whoever reads the descriptor sees its end; Python has something to close at its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
