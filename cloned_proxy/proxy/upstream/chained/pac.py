"""A PAC file: the company's program that says, for each destination, which proxy leads there.

PyPAC runs it (https://github.com/carsonyl/pypac), in QuickJS, on one thread of its own. What it answers besides HTTP
proxies is not taken: `DIRECT` would go past the proxies, which only `no_proxy` may say, and SOCKS is not spoken.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import structlog

from cloned_proxy.policy.terms.host_port import in_brackets
from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.proxy.upstream.chained.failure import Trouble, UpstreamProxyError
from cloned_proxy.proxy.upstream.chained.place import Place, place_of, places_named_in, read_pac
from cloned_proxy.store.files.errors import StoreError

_log = structlog.get_logger(__name__)

_KEPT_SECONDS: Final = 30.0
_MOST_KEPT: Final = 4096
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class PacFile:
    """Read once, at the start."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError: no such file, no PAC file, or no PyPAC."""
        text = read_pac(path)
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="pac")
        try:
            # The interpreter belongs to the thread that made it.
            self._program: Final = self._thread.submit(_load, text).result()
        except ModuleNotFoundError as error:
            self.close()
            raise StoreError(f"upstream.pac needs {error.name}: pip install 'cloned-proxy[pac]'") from error
        except Exception as error:
            self.close()
            raise StoreError(f"upstream.pac: {path} is no PAC file: {str(error).splitlines()[0][:200]}") from error
        self.named: Final = places_named_in(text)
        """Proxies that stand in it literally: known before it was ever asked."""
        self._kept: dict[tuple[str, Host, int], tuple[tuple[Place, ...], float]] = {}

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def places(self, host: Host, port: int, *, tunnel: bool) -> tuple[Place, ...]:
        """The HTTP proxies for this destination, first choice first. Raises UpstreamProxyError when there is none."""
        scheme = "https" if tunnel else "http"
        key = (scheme, host, port)
        found, expires = self._kept.get(key, ((), 0.0))
        if time.monotonic() >= expires:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            found = places_in(await self._ask(scheme, host, port))
            self._kept[key] = (found, time.monotonic() + _KEPT_SECONDS)
        if not found:
            raise UpstreamProxyError(Trouble.NO_WAY, "no upstream proxy leads there")
        return found

    async def _ask(self, scheme: str, host: Host, port: int) -> str:
        text = in_brackets(host.text)
        authority = text if port == _DEFAULT_PORTS[scheme] else f"{text}:{port}"
        asked = self._thread.submit(self._program.find_proxy_for_url, f"{scheme}://{authority}/", host.text)
        try:
            return str(await asyncio.wrap_future(asked))
        except Exception as error:
            _log.exception("the PAC file failed; nothing goes there", host=host.text)
            raise UpstreamProxyError(Trouble.NO_WAY, "the PAC file failed") from error


def places_in(answer: str) -> tuple[Place, ...]:
    """The HTTP proxies in what `FindProxyForURL` returned, such as `PROXY a:3128; HTTPS b:443; DIRECT`."""
    found = []
    for element in answer.split(";"):
        keyword, _, authority = element.strip().partition(" ")
        scheme = {"PROXY": "http", "HTTP": "http", "HTTPS": "https"}.get(keyword.upper())
        if scheme is None:
            continue
        try:
            found.append(place_of(f"{scheme}://{authority.strip()}"))
        except ValueError:
            _log.warning("the PAC file names a proxy that is none", answer=element.strip()[:100])
    return tuple(found)


def _load(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pypac.parser import PACFile  # noqa: PLC0415  optional, and slow to import
    return PACFile(text)
