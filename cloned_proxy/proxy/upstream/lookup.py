"""One look-up of a name, the only way in which this program turns names into addresses.

Names are asked for with the trailing dot, because without it the C library appends the suffixes of the machine's
search list, and an allowed `api.example.com` could be answered by `api.example.com.corp.example`. The dot hides entries
of the hosts file from the C library, so that file is read here, first, as everywhere.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Final

from cloned_proxy.policy.terms.rule import Address

type Addresses = tuple[Address, ...]

HOSTS_FILE: Final = Path("/etc/hosts")


def look_up(name: str, hosts_file: Path = HOSTS_FILE) -> Addresses:
    """The hosts file, then the system's resolver, without its search list. Blocks; raises OSError.

    `name` is canonical, without the trailing dot.
    """
    if found := in_hosts_file(name, hosts_file):
        return found
    # As bytes: the name is an A-label already, and text would go through the IDNA 2003 codec.
    infos = socket.getaddrinfo(f"{name}.".encode("ascii"), None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(ipaddress.ip_address(info[4][0]) for info in infos))


def in_hosts_file(name: str, path: Path = HOSTS_FILE) -> Addresses:
    """hosts(5): an address and its names on a line. A line that cannot be read says nothing about any name."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    found: dict[Address, None] = {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or ("",)
        if name in (entry.lower().removesuffix(".") for entry in names):
            try:
                found[ipaddress.ip_address(address)] = None
            except ValueError:
                continue
    return tuple(found)
