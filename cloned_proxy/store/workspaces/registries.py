"""Package registries as the user's own pip, npm, apt and cargo are set to use them, so that mirrors work as they are.

No registry stands in this program. The clients are asked in the home directory of whoever runs the command: a project
that a tool can write has no say in it. What they answer is written down once (`store.policyfile.preset_edit`);
nothing follows their settings by itself, because a file that a tool can change must not be able to widen a policy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cloned_proxy.policy.terms.host import HostError, parse_pattern
from cloned_proxy.policy.terms.rule import PatternKind
from cloned_proxy.store.files.errors import StoreError

_ASK_SECONDS: Final = 30.0
_PIP_DEFAULT: Final = (
    "from pip._internal.models.index import PyPI as i; print(i.simple_url); print('https://' + i.file_storage_domain)"
)
_PIP_SETTING: Final = re.compile(r"(?:[a-z]+\.(?:extra-)?index-url: |PIP_(?:EXTRA_)?INDEX_URL=)'?([^']*)'?")
_PIP_FILE: Final = re.compile(r"(/.*), exists: True")
_CARGO_INDEX: Final = re.compile(r"(.+)-[0-9a-f]{16}")
_APT_FORMAT: Final = "$(REPO_URI) $(SOURCESENTRY)"


@dataclass(frozen=True, slots=True, order=True)
class ClientRegistry:
    """One host that a client is set to use."""

    host: str
    port: int
    where: str
    """The setting that says so: a file, a variable, or the client's own default."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Whose settings are asked for, and how the programs are run."""

    environ: Mapping[str, str]
    home: Path

    @classmethod
    def of_this_user(cls) -> Clients:
        return cls(os.environ, Path.home())

    def ask(self, *words: str) -> str | None:
        """What a program of the user prints; None where there is none, or it fails."""
        program = shutil.which(words[0], path=self.environ.get("PATH"))
        if program is None:
            return None
        try:
            done = subprocess.run(  # noqa: S603  the user's own client, with words of ours
                [program, *words[1:]],
                cwd=self.home,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ASK_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def derive(name: str, clients: Clients | None = None) -> tuple[ClientRegistry, ...]:
    """The hosts of one registry preset, each once. Raises StoreError with the fix where its client names none."""
    read, client = _READERS[name]
    found = {(each.host, each.port): each for each in reversed(list(read(clients or Clients.of_this_user())))}
    if not found:
        raise StoreError(
            f"preset {name}: {client} names no registry on this machine; install it, let it fetch something once, or "
            f"write .cloned/presets/{name}.yaml by hand (`cloned-proxy preset show github-read` shows the form)"
        )
    return tuple(sorted(found.values()))


def client_of(name: str) -> str:
    """The program whose settings make the preset."""
    return _READERS[name][1]


def _hosts(url: str, where: str) -> Iterable[ClientRegistry]:
    """The host of a URL, unless it is none that a preset may name: a file, an address."""
    try:
        parts = urlsplit(url.removeprefix("sparse+").removeprefix("registry+"))
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        if port and parse_pattern(host).kind is PatternKind.EXACT:
            yield ClientRegistry(host, port, where)
    except (ValueError, HostError):
        return


def _pypi(clients: Clients) -> Iterable[ClientRegistry]:
    said = clients.ask("python3", "-m", "pip", "config", "debug") or clients.ask("pip", "config", "debug") or ""
    set_hosts: list[ClientRegistry] = []
    replaced = False
    place = ""
    for line in map(str.strip, said.splitlines()):
        if file := _PIP_FILE.fullmatch(line):
            place = f"pip, {file[1]}"
        elif setting := _PIP_SETTING.fullmatch(line):
            where = f"pip, {line.partition('=')[0]}" if line.startswith("PIP_") else place
            replaced = replaced or "extra" not in line.lower().partition("index")[0]
            for url in setting[1].split():
                set_hosts += _hosts(url, where)
    for where, url, default in _uv_indexes(clients):
        replaced = replaced or default
        set_hosts += _hosts(url, where)
    own = clients.ask("python3", "-c", _PIP_DEFAULT) or ""
    defaults = [each for url in own.split() for each in _hosts(url, "pip's own default")]
    # The default's files lie on a host of their own; whoever names the default host in a setting needs that one, too.
    used = not replaced or any(each.host == defaults[0].host for each in set_hosts if defaults)
    return (*set_hosts, *(defaults if used else ()))


def _uv_indexes(clients: Clients) -> Iterable[tuple[str, str, bool]]:
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"):
        for word in clients.environ.get(variable, "").split():
            yield (
                f"uv, {variable}",
                word.partition("=")[2] if re.match(r"[\w-]+=", word) else word,
                (variable in {"UV_DEFAULT_INDEX", "UV_INDEX_URL"}),
            )
    config = Path(clients.environ.get("XDG_CONFIG_HOME") or clients.home / ".config")
    for path in (config / "uv" / "uv.toml", Path("/etc/uv/uv.toml")):
        settings = _toml(path)
        for entry in _dicts(settings.get("index")):
            yield f"uv, {path}", str(entry.get("url", "")), entry.get("default") is True


def _npm(clients: Clients) -> Iterable[ClientRegistry]:
    said = clients.ask("npm", "config", "list", "--json")
    try:
        settings = json.loads(said or "{}")
    except ValueError:
        settings = {}
    if not isinstance(settings, dict):
        return
    files = [Path(str(settings.get(key, ""))) for key in ("userconfig", "globalconfig")]
    for key, url in settings.items():
        if key == "registry" or (key.startswith("@") and key.endswith(":registry")):
            named = [path for path in files if _has_key(path, key)]
            variable = any(name.lower() == f"npm_config_{key}" for name in clients.environ)
            where = "npm_config_registry" if variable else str(named[0]) if named else "npm's own default"
            yield from _hosts(str(url), where if where.startswith("npm") else f"npm, {where}")


def _has_key(path: Path, key: str) -> bool:
    try:
        return any(line.partition("=")[0].strip() == key for line in path.read_text(errors="replace").splitlines())
    except OSError:
        return False


def _debian(clients: Clients) -> Iterable[ClientRegistry]:
    # Without --no-release-info a source is left out until `apt-get update` has reached it once.
    said = clients.ask("apt-get", "indextargets", "--no-release-info", "--format", _APT_FORMAT)
    for line in (said or "").splitlines():
        url, _, entry = line.partition(" ")
        yield from _hosts(url, f"apt, {entry.rpartition(':')[0] or entry}")


def _cargo(clients: Clients) -> Iterable[ClientRegistry]:
    home = Path(clients.environ.get("CARGO_HOME") or clients.home / ".cargo")
    for path in (home / "config.toml", home / "config"):
        settings = _toml(path)
        for entry in (*_dicts(settings.get("source")), *_dicts(settings.get("registries"))):
            for key in ("registry", "index"):
                yield from _hosts(str(entry.get(key, "")), f"cargo, {path}")
    # What cargo has fetched before tells the index, and the index tells where its downloads lie.
    for directory in sorted((home / "registry" / "index").glob("*")):
        if name := _CARGO_INDEX.fullmatch(directory.name):
            yield from _hosts(f"https://{name[1]}", f"cargo, {directory}")
        try:
            index = json.loads((directory / "config.json").read_text())
        except (OSError, ValueError):
            continue
        if isinstance(index, dict):
            download = str(index.get("dl", "")).partition("{")[0]
            yield from _hosts(download, f"cargo, {directory / 'config.json'}")


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _dicts(value: object) -> list[dict[str, Any]]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in values if isinstance(each, dict)]


_READERS: Final[Mapping[str, tuple[Callable[[Clients], Iterable[ClientRegistry]], str]]] = {
    "cargo": (_cargo, "cargo"),
    "debian": (_debian, "apt"),
    "npm": (_npm, "npm"),
    "pypi": (_pypi, "pip"),
}
