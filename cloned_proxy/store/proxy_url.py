"""Where clients of a workspace find its proxy: environment over file over the one that serves it over the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

DEFAULT_PROXY: Final = "http://127.0.0.1:8081"
PROXY_VARIABLE: Final = "CLONED_EGRESS_PROXY"


@dataclass(frozen=True, slots=True)
class ProxyUrl:
    """Where clients find the proxy, and who says so."""

    workspace: str | None
    environment: str | None
    serving: str | None = None
    """Of the proxy that serves the workspace now."""

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
