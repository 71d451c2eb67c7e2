"""The user that a tool runs as with `--user me`: its name, and the repositories that git takes for its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cloned_proxy.runner.values.spec import Mount

NAME: Final = "tool"
"""The user's name in the container. It is not the caller's: a tool need not know that. The worker image has the
same."""
_PASSWD: Final = ".cloned-passwd"  # noqa: S105  the name of a file
_GROUP: Final = ".cloned-group"


def write_account(scratch: Path, user: str, home: str) -> tuple[Mount, ...]:
    """Files of passwd(5) and group(5) with `uid:gid` in them, as mounts over the image's.

    Without an entry `getpwuid` fails, and with it ssh, `pathlib.Path.home()` where HOME is unset, `whoami` and more.
    They lie in the directory of the call: a tool that changes them deceives itself.
    """
    uid, _, gid = user.partition(":")
    nobody = "65534"
    passwd = [
        "root:x:0:0:root:/root:/usr/sbin/nologin",
        f"nobody:x:{nobody}:{nobody}:nobody:/nonexistent:/usr/sbin/nologin",
    ]
    group = ["root:x:0:", f"nogroup:x:{nobody}:"]
    if uid != nobody:
        passwd.append(f"{NAME}:x:{uid}:{gid}::{home}:/bin/sh")
    if gid not in ("0", nobody):
        group.append(f"{NAME}:x:{gid}:")
    mounts = []
    for name, lines, target in ((_PASSWD, passwd, "/etc/passwd"), (_GROUP, group, "/etc/group")):
        path = scratch / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        path.chmod(0o644)
        mounts.append(Mount(str(path), target))
    return tuple(mounts)


def git_environment(repositories: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """Variables that make git take exactly these directories for the user's own (`safe.directory`, git-config(1)).

    They come behind what `env` may have put there by the same means.
    """
    count = env.get("GIT_CONFIG_COUNT", "0")
    first = int(count) if count.isdecimal() else 0
    paths = tuple(repositories)
    found = {"GIT_CONFIG_COUNT": str(first + len(paths))} if paths else {}
    for number, path in enumerate(paths, start=first):
        found |= {f"GIT_CONFIG_KEY_{number}": "safe.directory", f"GIT_CONFIG_VALUE_{number}": path}
    return found
