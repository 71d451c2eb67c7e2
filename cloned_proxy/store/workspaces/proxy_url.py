"""Where clients of a workspace find its proxy: environment over file over the one that serves it over the default."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

DEFAULT_PROXY: Final = "http://127.0.0.1:8081"
PROXY_VARIABLE: Final = "CLONED_EGRESS_PROXY"
NO_PROXY: Final = "localhost,127.0.0.1"
"""For programs of this host. Every client that was tried goes there directly, and nowhere else: `[::1]` ends each
request of httpx, in some clients `::1` stands for every address that ends so, and an empty value sends some round the
proxy for all.
"""


@dataclass(frozen=True, slots=True)
class ProxyUrl:
    """Where clients find the proxy, and who says so."""

    workspace: str | None
    environment: str | None
    serving: str | None = None
    """`host:port` of the proxy that serves the workspace now."""

    @property
    def known(self) -> str | None:
        """What somebody set, else the proxy that serves; None where there is neither."""
        return self.environment or self.workspace or self.serving

    @property
    def effective(self) -> str:
        return self.known or DEFAULT_PROXY

    @property
    def authority(self) -> str:
        """`host:port` of the effective URL."""
        return urlsplit(self.effective).netloc

    @property
    def misses(self) -> bool:
        """Whether what was set certainly is not the proxy that serves: two ports of this machine are two programs.

        A name or another machine's address may lead to it, by a way that is not known here.
        """
        return (
            self.serving is not None
            and self.effective != self.serving
            and on_loopback(self.effective)
            and on_loopback(self.serving)
        )

    @property
    def said_by(self) -> str:
        """Who names the effective proxy, with what takes it back."""
        if self.environment:
            return f"{PROXY_VARIABLE} (`unset {PROXY_VARIABLE}`)"
        return "config.yaml (`cloned-proxy proxy --clear`)" if self.workspace else "the proxy itself"


def on_loopback(url: str) -> bool:
    """Whether a URL names this machine's own loopback."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
