"""Which settings of which program make a proxy its way out, and what they leave open.

Each entry names the program's own page on them; tests/cli/commands/clients/test_setup.py and
tests/runner/test_setup.py run the programs that can be run here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from cloned_proxy.runner.setup.settings_file import Setting
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.proxy_url import NO_PROXY

_NAMES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
"""curl reads only the lower-case name for `http://`, others only the upper-case ones."""
_COOPERATIVE: Final = "a program that ignores these settings goes round the proxy: `cloned-proxy exec` is the wall"


@dataclass(frozen=True, slots=True)
class SetupSite:
    """Whose settings, and where the proxy is."""

    scope: str
    home: Path
    project: Path
    environment: Mapping[str, str]
    proxy: str
    """The proxy's URL, with a credential where one was asked for."""

    @property
    def host(self) -> str:
        return urlsplit(self.proxy).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.proxy).port or 0

    @property
    def is_here(self) -> bool:
        return self.host in ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class SetupTarget:
    """One file and what is to stand in it."""

    path: Path
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class SetupPlan:
    targets: tuple[SetupTarget, ...]
    notes: tuple[str, ...]
    """What else the user has to know or do."""


@dataclass(frozen=True, slots=True)
class Program:
    scopes: tuple[str, ...]
    """`user`, `project` or `system`; the first is the default."""
    takes_credentials: bool
    plan: Callable[[SetupSite], SetupPlan]


def _variables(site: SetupSite, *place: str) -> tuple[Setting, ...]:
    """The proxy variables, as `token` prints them."""
    proxies = (Setting((*place, name), site.proxy) for name in _NAMES)
    return (*proxies, *(Setting((*place, name), NO_PROXY) for name in ("NO_PROXY", "no_proxy")))


def _claude_code(site: SetupSite) -> SetupPlan:
    """https://code.claude.com/docs/en/settings (sandbox settings) and .../sandboxing (custom proxy).

    Its SOCKS proxy is replaced as well: its own one would decide by a list of its own. Ours refuses what is not HTTP.
    By default commands run unsandboxed where the sandbox cannot start, and Claude may ask to run one outside of it.
    """
    if not site.is_here:
        raise StoreError(f"Claude Code takes a port of this machine only, and the proxy is at {site.host}")
    directory = Path(site.environment.get("CLAUDE_CONFIG_DIR") or site.home / ".claude")
    path = directory / "settings.json" if site.scope == "user" else site.project / ".claude" / "settings.local.json"
    network = ("sandbox", "network")
    settings = (
        Setting(("sandbox", "enabled"), value=True),
        Setting(("sandbox", "failIfUnavailable"), value=True),
        Setting(("sandbox", "allowUnsandboxedCommands"), value=False),
        Setting((*network, "httpProxyPort"), site.port),
        Setting((*network, "socksProxyPort"), site.port),
    )
    return SetupPlan(
        (SetupTarget(path, settings),),
        (
            "Claude Code's sandbox needs bubblewrap and socat on Linux; without them it will not start now",
            "it is for the commands that Claude runs: what Claude Code itself asks for goes its own way",
            "ssh and what else is not HTTP is refused in that sandbox",
        ),
    )


def _codex(site: SetupSite) -> SetupPlan:
    """https://developers.openai.com/codex/config-reference (features.network_proxy); CODEX_HOME/.env is its dotenv.

    Its own proxy keeps the commands in a network namespace, allows every public name and asks the one in front of it:
    ours. `allow_local_binding` stays off, because it sends local addresses past the proxy in front.
    """
    directory = Path(site.environment.get("CODEX_HOME") or site.home / ".codex")
    feature = ("features", "network_proxy")
    settings = (
        Setting(("sandbox_workspace_write", "network_access"), value=True),
        Setting((*feature, "enabled"), value=True),
        Setting((*feature, "domains"), {"*": "allow"}, keep=True),
    )
    return SetupPlan(
        (SetupTarget(directory / "config.toml", settings), SetupTarget(directory / ".env", _variables(site))),
        (
            "Codex itself goes through the proxy as well: allow what it needs, as `--preset codex` does",
            "Codex asks DNS for each name before it asks the proxy, so names leave this machine",
        ),
    )


def _gemini(site: SetupSite) -> SetupPlan:
    """https://geminicli.com/docs/reference/configuration (environment variables and .env files)."""
    directory = site.home if site.scope == "user" else site.project
    return SetupPlan(
        (SetupTarget(directory / ".gemini" / ".env", _variables(site)),),
        (
            "a .env file of the project comes before the one in the home directory",
            "Gemini CLI itself goes through the proxy as well: allow what it needs, as `--preset gemini-cli` does",
            _COOPERATIVE,
        ),
    )


def _editor(directory: str) -> Callable[[SetupSite], SetupPlan]:
    """https://code.visualstudio.com/docs/setup/network (http.proxy) and .../reference/default-settings."""

    def plan(site: SetupSite) -> SetupPlan:
        mac = sys.platform == "darwin"
        base = site.home / "Library" / "Application Support" if mac else site.home / ".config"
        base = base if mac else Path(site.environment.get("XDG_CONFIG_HOME") or base)
        terminal = f"terminal.integrated.env.{'osx' if mac else 'linux'}"
        settings = (
            Setting(("http.proxy",), site.proxy),
            *_variables(site, terminal),
        )
        return SetupPlan(
            (SetupTarget(base / directory / "User" / "settings.json", settings),),
            ("the editor, its extensions and new terminals use it; restart those that are open", _COOPERATIVE),
        )

    return plan


def _git(site: SetupSite) -> SetupPlan:
    """git-config(1), http.proxy: for https:// remotes as well."""
    plain = site.home / ".gitconfig"
    beside = Path(site.environment.get("XDG_CONFIG_HOME") or site.home / ".config") / "git" / "config"
    known = site.environment.get("GIT_CONFIG_GLOBAL")
    user = Path(known) if known else beside if beside.exists() and not plain.exists() else plain
    path = {"user": user, "project": site.project / ".git" / "config", "system": Path("/etc/gitconfig")}[site.scope]
    if site.scope == "project" and not path.exists():
        raise StoreError(f"{site.project} is no git repository with a configuration of its own")
    settings = (Setting(("http", "proxy"), site.proxy),)
    return SetupPlan((SetupTarget(path, settings),), ("ssh remotes do not go through it", _COOPERATIVE))


def _docker(site: SetupSite) -> SetupPlan:
    """https://docs.docker.com/engine/cli/proxy/ (user) and .../engine/daemon/proxy/ (system)."""
    if site.scope == "system":
        settings = tuple(Setting(("proxies", name), site.proxy) for name in ("http-proxy", "https-proxy"))
        notes = ("restart the engine: `systemctl restart docker`; it pulls images through the proxy then",)
        return SetupPlan((SetupTarget(Path("/etc/docker/daemon.json"), settings),), notes)
    directory = Path(site.environment.get("DOCKER_CONFIG") or site.home / ".docker")
    place = ("proxies", "default")
    proxies = (Setting((*place, name), site.proxy) for name in ("httpProxy", "httpsProxy"))
    settings = (*proxies, Setting((*place, "noProxy"), NO_PROXY))
    gets = "containers and builds get it as variables; images are pulled by the engine: `--scope system`"
    reaches = (f"{site.host} is reached only by containers and builds with `--network host`",) if site.is_here else ()
    return SetupPlan((SetupTarget(directory / "config.json", settings),), (gets, *reaches, _COOPERATIVE))


def _java(site: SetupSite) -> SetupPlan:
    """The Java documentation's "Networking Properties", and JAVA_TOOL_OPTIONS in its troubleshooting guide."""
    values = {f"{scheme}.proxy{name}": value for scheme in ("http", "https")
              for name, value in (("Host", site.host), ("Port", str(site.port)))}  # fmt: skip
    options = " ".join(f"-D{name}={value}" for name, value in values.items())
    settings = tuple(Setting((name,), value) for name, value in values.items())
    return SetupPlan(
        (SetupTarget(_java_home(site) / "conf" / "net.properties", settings),),
        (f'for one shell instead: export JAVA_TOOL_OPTIONS="{options}"', _COOPERATIVE),
    )


def _java_home(site: SetupSite) -> Path:
    known = site.environment.get("JAVA_HOME")
    java = shutil.which("java", path=site.environment.get("PATH"))
    if known:
        return Path(known)
    if java is None:
        raise StoreError("no java on the PATH and no JAVA_HOME: name the Java that is meant by JAVA_HOME")
    words = [java, "-XshowSettings:properties", "-version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603  the java of the PATH
    for line in done.stderr.splitlines():
        name, _, value = line.strip().partition(" = ")
        if name == "java.home":
            return Path(value)
    raise StoreError(f"{java} does not say where its files are: name them by JAVA_HOME")


PROGRAMS: Final[Mapping[str, Program]] = MappingProxyType(
    {
        "claude-code": Program(("user", "project"), takes_credentials=False, plan=_claude_code),
        "codex": Program(("user",), takes_credentials=True, plan=_codex),
        "gemini-cli": Program(("user", "project"), takes_credentials=True, plan=_gemini),
        "vscode": Program(("user",), takes_credentials=True, plan=_editor("Code")),
        "cursor": Program(("user",), takes_credentials=True, plan=_editor("Cursor")),
        "git": Program(("user", "project", "system"), takes_credentials=True, plan=_git),
        "docker": Program(("user", "system"), takes_credentials=True, plan=_docker),
        "java": Program(("system",), takes_credentials=False, plan=_java),
    }
)
