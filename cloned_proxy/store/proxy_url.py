"""Where clients of a workspace find its proxy: environment over file over default."""

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

    @property
    def effective(self) -> str:
        """Environment over file over default."""
        return self.environment or self.workspace or DEFAULT_PROXY

    @property
    def authority(self) -> str:
        """`host:port` of the effective URL."""
        return urlsplit(self.effective).netloc
