"""`.cloned/config.yaml`: every setting, its default and its bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

type Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProxySettings(_Section):
    """Bounds of the listeners. Times are seconds, sizes bytes."""

    max_connections: int = Field(default=20_000, ge=1)
    """Client connections at once; more are answered 503 and closed."""
    max_head_bytes: int = Field(default=65_536, ge=1024, le=1_048_576)
    max_head_fields: int = Field(default=200, ge=10, le=2000)
    head_timeout: Seconds = 10.0
    """From the first byte of a head to its end, and from accept to the first byte."""
    keep_alive_timeout: Seconds = 60.0
    """Between two requests of one client connection."""
    client_hello_timeout: Seconds = 10.0
    resolve_timeout: Seconds = 5.0
    resolver_cache_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    resolver_cache_entries: int = Field(default=4096, ge=1)
    resolver_threads: int = Field(default=32, ge=1, le=256)
    connect_timeout: Seconds = 10.0
    response_timeout: Seconds = 300.0
    """From the end of a request to the head of its response (plain and inspected HTTP)."""
    idle_timeout: Seconds = 900.0
    """A tunnel or body without a byte in either direction."""
    max_tunnel_seconds: Annotated[float, Field(gt=0)] = 86_400.0
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 10.0


class AuditSettings(_Section):
    durability: Literal["grouped", "strict"] = "grouped"
    """`strict` commits each decision before the dial."""
    queue: int = Field(default=10_000, ge=10)
    """Events waiting for the writer; more refuse new requests with 503."""
    retention_days: int = Field(default=90, ge=1)


class Config(_Section):
    policy: str | None = None
    """Path of the policy file, relative to the workspace; the default is `policy.yaml` in it."""
    proxy: ProxySettings = ProxySettings()
    audit: AuditSettings = AuditSettings()
