"""`notify:` of config.yaml: who is told of a new denial, or of a new request of a tool."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from cloned_proxy.policy.secrets.secret import check_template, references
from cloned_proxy.store.files.strict_model import StrictModel

type Occasion = Literal["denial", "request", "decision"]


def check_webhook_url(text: str) -> None:
    """Raises ValueError, which never quotes the URL: that of many services is a secret itself."""
    fix = "write one such as https://hooks.example.com/egress"
    try:
        parts = urlsplit(text)
        host, usable, scheme = parts.hostname or "", parts.port is None or parts.port > 0, parts.scheme
    except ValueError:
        host, usable, scheme = "", False, ""
    if not usable or not host or scheme not in ("http", "https") or not text.isprintable() or " " in text:
        raise ValueError(f"this is not the URL of a receiver; {fix}")
    if scheme == "http" and not _is_loopback(host):
        raise ValueError(f"what is denied would travel in the clear; {fix} (http is for receivers on this machine)")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(text: str) -> str:
    check_template(text)
    if not references(text):  # else it is known, and checked, once the vault is open
        check_webhook_url(text)
    return text


def _secret(text: str) -> str:
    check_template(text)
    if len(references(text)) != 1 or not text.startswith("${vault:") or not text.endswith("}"):
        raise ValueError(
            "the signing secret is kept in the vault; write ${vault:notify.webhook}, and set it with "
            "`cloned-proxy vault set notify.webhook`"
        )
    return text


class WebhookSettings(StrictModel):
    """A receiver of signed messages in the form of https://www.standardwebhooks.com."""

    url: Annotated[str, AfterValidator(_url)]
    """May hold `${vault:NAME}`: the URLs of many services are secrets."""
    secret: Annotated[str, AfterValidator(_secret)]
    """`${vault:NAME}`; the vault holds `whsec_` and the key in base64."""


class NotifySettings(StrictModel):
    desktop: bool = False
    """`notify-send` on the desktop of whoever runs `serve`."""
    webhook: WebhookSettings | None = None
    """A receiver of signed messages (https://www.standardwebhooks.com)."""
    events: list[Occasion] = Field(default=["denial", "request", "decision"], min_length=1)
    """What is told: a new denial, a new request of a tool, what a person decided."""
    period: float = Field(default=3600.0, ge=1, le=604_800)
    """Seconds in which the same tool, host and port is told once."""
    per_minute: int = Field(default=10, ge=1, le=600)
    """More are counted, and the count goes with the next one."""

    @property
    def wanted(self) -> bool:
        """Whether anybody is to be told."""
        return self.desktop or self.webhook is not None
