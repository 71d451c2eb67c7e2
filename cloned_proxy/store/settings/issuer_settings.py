"""`fleet.issuers` of config.yaml: whose tokens name tools here, beside the fleet's own (OpenID Connect)."""

from __future__ import annotations

from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.store.files.strict_model import StrictModel

_MAX_URL: Final = 2048
_FIX: Final = "write one such as https://kubernetes.default.svc/openid/v1/jwks, or the path of a file"


def is_url(text: str) -> bool:
    """Whether `jwks` names a URL and no file."""
    return "://" in text


def check_https(text: str) -> None:
    """Raises ValueError for what is no `https://` URL: whoever can change keys on their way is every tool."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text or "#" in text or len(text) > _MAX_URL:
        raise ValueError(f"this is not an https:// URL without a password in it; {_FIX}")


def _jwks(text: str) -> str:
    if is_url(text):
        check_https(text)
    elif not text or "\0" in text:
        raise ValueError(f"keys come from somewhere; {_FIX}")
    return text


class IssuerSettings(StrictModel):
    """An issuer of OpenID Connect tokens, such as a Kubernetes cluster or a CI system."""

    issuer: Annotated[str, Field(min_length=1, max_length=_MAX_URL)]
    """The issuer's `iss`, letter for letter."""
    audience: Annotated[str, Field(min_length=1, max_length=256)]
    """What `aud` must hold: tokens for somebody else are worth nothing here."""
    jwks: Annotated[str, AfterValidator(_jwks)] | None = None
    """URL or file of its public keys (RFC 7517), a path relative to the workspace. None: what
    `<issuer>/.well-known/openid-configuration` names."""
    ca_file: str | None = None
    """PEM file with the CA of the URL; None: the system's. Relative to the workspace."""
    credentials_file: str | None = None
    """A bearer token that the URL wants, read anew each time; Kubernetes wants that of a ServiceAccount."""
    map: dict[str, Annotated[str, AfterValidator(tool_id)]] = Field(min_length=1)
    """`sub` of a token, letter for letter, to the tool that it names. Whoever is not here is nobody."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.jwks is None:
            check_https(self.issuer)
        elif not is_url(self.jwks) and (self.ca_file or self.credentials_file):
            raise ValueError("`ca_file` and `credentials_file` are for a URL; take them out, `jwks` is a file")
        return self
