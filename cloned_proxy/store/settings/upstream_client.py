"""The proxy in front, for what the operator's own parts send: exports and webhooks go past it no more than tools do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from cloned_proxy.policy.deciding.bypass import read_bypass
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from cloned_proxy.store.settings.upstream_tls import verifying_context


def proxy_for(url: str, settings: UpstreamSettings, value_of: Callable[[str], str], base: Path) -> httpx.Proxy | None:
    """The proxy that leads to `url`; None where that is reached directly. Raises StoreError.

    `value_of` gives secrets of the vault, `base` is where relative paths begin. By a name's addresses nothing is exempt
    here: only tools' names are looked up before they are dialled.
    """
    if not settings.wanted or _is_direct(url, settings):
        return None
    if settings.proxy is None:
        raise StoreError("no PAC file is asked for this; name the proxy (`upstream: {proxy: …}`), or add to `no_proxy`")
    auth = None
    if settings.secret is not None:
        user, colon, password = value_of(settings.secret).partition(":")
        if not colon:
            raise StoreError(f"the secret {settings.secret} is not user:password")
        auth = (user, password)
    context = verifying_context(settings, base) if settings.secure else None
    return httpx.Proxy(settings.proxy, auth=auth, ssl_context=context)


def _is_direct(url: str, settings: UpstreamSettings) -> bool:
    try:
        host = parse_host(urlsplit(url).hostname or "")
    except (HostError, ValueError):
        return False
    bypass = read_bypass(settings.no_proxy)
    return bypass.covers_name(host) or (host.address is not None and bypass.covers(host.address))
