"""Tries to get out of the container it runs in. One JSON plan on stdin, one JSON list of observations on stdout.

Each attempt is {"id", "kind", …}; each observation {"id", "outcome", "detail", "seconds"}. An outcome is one of

    open          something left, or could have: a connection, an answer, a packet that nothing refused
    blocked       refused here, before anything left
    unavailable   this kernel does not have it at all

Silence counts as open: a packet that nobody answers has left all the same.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import errno
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from probe_network import TLS_ALERT, WAIT, Seen, by_name, client_hello, dns, judge, reason_of, resolve, tcp, udp

PROXY = ("127.0.0.1", 8081)
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SYSTEM_CALLS = {"x86_64": {"unshare": 272, "setns": 308}, "aarch64": {"unshare": 97, "setns": 268}}
IO_URING_SETUP = 425


def icmp(host: str, kind: int) -> Seen:
    try:
        with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as sock:
            if host:
                sock.sendto(struct.pack("!BBHHH", 8, 0, 0, 1, 1), (host, 0))
            return "open", "an ICMP packet was sent" if host else "a raw socket was opened"
    except OSError as error:
        return judge(error)


def make_socket(family: int, kind: int, protocol: int = 0) -> Seen:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return judge(error)
    return "open", f"a socket of family {family} was opened"


def unix(path: str) -> Seen:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT)
        try:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            return "blocked", errno.errorcode.get(error.errno or 0, "?")
        return "open", f"connected to {path}"


def system_call(name: str, *arguments: int) -> Seen:
    """A system call in a child of its own, because one that works changes the process."""
    number = IO_URING_SETUP if name == "io_uring_setup" else SYSTEM_CALLS.get(os.uname().machine, {}).get(name)
    if number is None:
        return "unavailable", f"no number for {name} on {os.uname().machine}"
    program = (
        "import ctypes,sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"result = libc.syscall({number}, {', '.join(map(str, arguments))})\n"
        "print(result, ctypes.get_errno())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=10)
    if done.returncode < 0:
        return "blocked", f"killed by signal {-done.returncode}"
    result, code = (int(word) for word in done.stdout.split())
    if result >= 0:
        return "open", f"{name} succeeded"
    # EFAULT and EINVAL come from the call itself: the filter let it through.
    return judge(OSError(code, "")) if code not in (errno.EFAULT, errno.EINVAL) else ("open", f"{name} is there")


def socketcall_32(family: int) -> Seen:
    """`socketcall` of the 32-bit table: its arguments lie in memory, where a filter on `socket` cannot see them."""
    if os.uname().machine != "x86_64":
        return "unavailable", "x86 only"
    done = subprocess.run(
        [sys.executable, __file__, "socketcall", str(family)], capture_output=True, text=True, check=False, timeout=10
    )
    if done.returncode < 0:
        return "blocked", f"killed by signal {-done.returncode}"
    result = int(done.stdout)
    return ("open", "a 32-bit socketcall made a socket") if result >= 0 else judge(OSError(-result, ""))


def run_socketcall(family: int) -> int:
    import mmap

    low_2_gb = 0x40  # MAP_32BIT: the 32-bit call takes 32-bit pointers
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | low_2_gb
    memory = mmap.mmap(-1, 4096, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    arguments = address + 2048
    # push rbx; mov eax, 102; mov ebx, 1 (SYS_SOCKET); mov ecx, arguments; int 0x80; pop rbx; ret
    code = b"\x53\xb8\x66\0\0\0\xbb\x01\0\0\0\xb9" + struct.pack("<I", arguments) + b"\xcd\x80\x5b\xc3"
    memory[: len(code)] = code
    memory[2048:2060] = struct.pack("<III", family, socket.SOCK_STREAM, 0)
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


def doors(roots: list[str]) -> Seen:
    found = []
    for root in roots:
        for directory, _, names in os.walk(root):
            for name in names:
                mode = os.lstat(os.path.join(directory, name)).st_mode
                if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                    found.append(os.path.join(directory, name))
    return ("open", ", ".join(found)) if found else ("blocked", "no socket and no FIFO")


def change_network() -> Seen:
    """Brings loopback down: whoever may do that may also add interfaces and routes."""
    import fcntl

    set_flags = 0x8914  # SIOCSIFFLAGS, netdevice(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, set_flags, struct.pack("16sH14x", b"lo", 0x1 | 0x40))
        except OSError as error:
            return judge(error)
    return "open", "the interface was changed"


def read(path: str) -> Seen:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return "blocked", errno.errorcode.get(error.errno or 0, "?")
    return "open", f"{path} could be read"


def second_listener() -> Seen:
    """A listener of our own on the proxy's port would take the requests of whatever else runs here."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(PROXY)
            sock.listen(1)
        except OSError as error:
            return "blocked", errno.errorcode.get(error.errno or 0, "?")
        return "open", "a second listener on 8081"


def _ask(head: str) -> tuple[socket.socket, str]:
    sock = socket.create_connection(PROXY, timeout=WAIT * 2)
    sock.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    return sock, sock.recv(4096).decode("latin-1")


def proxy(head: str, refusals: list[int], reason: str = "") -> Seen:
    """What the proxy answers; anything but one of `refusals` or a closed connection is open.

    With `reason`, any other one is open, too: a name that is refused for its address has been resolved.
    """
    try:
        sock, answer = _ask(head)
        sock.close()
    except ConnectionError as error:
        return "blocked", type(error).__name__
    except OSError as error:
        return "open", f"no refusal: {error}"
    if not answer:
        return "blocked", "connection closed"
    status = int(answer.split(" ", 2)[1])
    given = reason_of(answer)
    refused = status in refusals and reason in ("", given)
    return ("blocked" if refused else "open"), f"{status} {given}".strip()


def front(head: str, server_name: str | None) -> Seen:
    """A tunnel to an allowed name, and another name, or none, in its TLS."""
    try:
        sock, answer = _ask(head)
    except OSError as error:
        return "blocked", type(error).__name__
    with sock:
        if " 200" not in answer.split("\r\n", 1)[0]:
            return "blocked", answer.split("\r\n", 1)[0]
        try:
            sock.sendall(client_hello(server_name))
            reply = sock.recv(100)
        except ConnectionError as error:
            return "blocked", f"{type(error).__name__} behind the ClientHello"
        except OSError:
            return "open", "the tunnel stayed open"
        if not reply or reply[0] == TLS_ALERT:
            return "blocked", "an alert" if reply else "closed behind the ClientHello"
        return "open", f"an answer for {server_name or 'no name'}"


def plant(name: str, target: str) -> Seen:
    """Leaves a link behind for whoever reads the results; the host says what came of it."""
    os.symlink(target, f"/sandbox/{name}")
    return "blocked", "planted"


KINDS: dict[str, Callable[..., Seen]] = {
    "tcp": tcp,
    "udp": udp,
    "icmp": icmp,
    "resolve": resolve,
    "by_name": by_name,
    "dns": dns,
    "socket": make_socket,
    "unix": unix,
    "system_call": lambda name, arguments: system_call(name, *arguments),
    "socketcall_32": socketcall_32,
    "doors": doors,
    "change_network": change_network,
    "read": read,
    "second_listener": second_listener,
    "proxy": proxy,
    "front": front,
    "plant": plant,
}


def attempt(task: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        outcome, detail = KINDS[task["kind"]](**task.get("with", {}))
    except Exception as error:  # noqa: BLE001  an attempt that breaks is no proof of anything: it counts as open
        outcome, detail = "open", f"the attempt itself failed: {type(error).__name__}: {error}"
    return {"id": task["id"], "outcome": outcome, "detail": detail, "seconds": round(time.monotonic() - began, 3)}


def main() -> None:
    """Runs the plan, sixteen attempts at a time."""
    plan = json.load(sys.stdin)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        json.dump(list(pool.map(attempt, plan)), sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["socketcall"]:
        print(run_socketcall(int(sys.argv[2])))
    else:
        main()
