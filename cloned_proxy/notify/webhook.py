"""A signed message to a receiver, in the form of https://www.standardwebhooks.com."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import httpx
from standardwebhooks import Webhook

from cloned_proxy.notify.notice import Notice
from cloned_proxy.policy.secrets.secret import filled
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.notify_settings import WebhookSettings, check_webhook_url

PAUSES: Final = (1.0, 5.0, 25.0)
"""Seconds before each further attempt, and up to a quarter more."""
_SECONDS: Final = 10.0
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105  what the form puts before every secret
_MIN_KEY: Final = 24
"""Bytes; the form asks for 24 to 64."""
_LEAST_FAILURE: Final = 300
_RETRIED: Final = frozenset({408, 425, 429})
_SERVER_FAULT: Final = 500


class WebhookError(Exception):
    """The message did not arrive; the text says why and never holds the URL or the secret."""


def signer(secret: str) -> Webhook:
    """Raises WebhookError for what is no signing secret."""
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) < _MIN_KEY:
        raise WebhookError(
            f"the signing secret is `{_SECRET_PREFIX}` and at least {_MIN_KEY} bytes in base64; make one with "
            f"`echo {_SECRET_PREFIX}$(openssl rand -base64 32) | cloned-proxy vault set notify.webhook`"
        )
    return Webhook(key)


def signed_headers(signing: Webhook, message_id: str, at: float, body: bytes) -> dict[str, str]:
    """The three headers of the form, and the type of the body."""
    # In UTC: the library takes the digits of whatever zone it is given for UTC.
    when = datetime.fromtimestamp(int(at), UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": signing.sign(message_id, when, body.decode()),
        "content-type": "application/json",
    }


class Receiver:
    """Where the messages go. One attempt at a time; whoever waits for it is no tool."""

    def __init__(
        self,
        settings: WebhookSettings,
        value_of: Callable[[str], str],
        *,
        clock: Callable[[], float],
        pauses: tuple[float, ...] = PAUSES,
        proxy_to: Callable[[str], httpx.Proxy | None] = lambda _: None,
    ) -> None:
        """`value_of` gives secrets of the vault as they are now, `proxy_to` the proxy that leads to a URL."""
        self._settings = settings
        self._value_of = value_of
        self._clock = clock
        self._pauses = pauses
        self._proxy_to = proxy_to

    async def send(self, notice: Notice) -> None:
        """Tries until it has arrived, four times at most. Raises WebhookError."""
        body = notice.payload()
        for pause in (*self._pauses, None):
            try:
                why, final = await self._attempt(f"msg_{notice.occasion}_{notice.id}", body)
            except (StoreError, ValueError) as error:
                raise WebhookError(str(error)) from error
            if not why:
                return
            if final or pause is None:
                raise WebhookError(why)
            await asyncio.sleep(pause * random.uniform(1, 1.25))  # noqa: S311  spreads attempts, guards nothing

    def _client(self, url: str) -> httpx.AsyncClient:
        # Nothing of the environment: a proxy variable would send it through the very proxy that it tells about.
        proxy = self._proxy_to(url)
        return httpx.AsyncClient(timeout=_SECONDS, trust_env=False, follow_redirects=False, proxy=proxy)

    async def _attempt(self, message_id: str, body: bytes) -> tuple[str, bool]:
        """Why it did not arrive ("" for arrived), and whether another attempt would be in vain."""
        url = filled(self._settings.url, self._value_of)
        check_webhook_url(url)
        signing = signer(filled(self._settings.secret, self._value_of))
        headers = signed_headers(signing, message_id, self._clock(), body)
        try:
            async with (
                asyncio.timeout(_SECONDS),
                self._client(url) as client,
                client.stream("POST", url, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            return f"the receiver cannot be reached: {type(error).__name__}", False
        if status < _LEAST_FAILURE:
            return "", True
        return f"the receiver answered {status}", status not in _RETRIED and status < _SERVER_FAULT
