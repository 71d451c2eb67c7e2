"""Entries of the log as OTLP log records: one POST of protobuf to a collector's `/v1/logs`.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. The messages are those of `opentelemetry-proto`, the connection is
our own: it takes no proxy from the environment and follows no redirect, so that it goes where the operator said.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

_TIMEOUT: Final = 10.0
_OK: Final = 200
_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8
_NANO: Final = 1_000_000_000
# What OpenTelemetry has a name for gets that name; everything else of an entry is below `cloned.`.
_NAMES: Final = {
    "host": "server.address",
    "port": "server.port",
    "method": "http.request.method",
    "path": "url.path",
}
_LEFT_OUT: Final = frozenset({"type", "at"})


class ExportError(Exception):
    """The collector did not take it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One entry of the log, as it was recorded."""

    seq: int
    body: Mapping[str, Any]


def encode(entries: Sequence[Exported], version: str) -> bytes:
    """The request's body."""
    resource = Resource(attributes=[_pair("service.name", "cloned-proxy"), _pair("service.version", version)])
    scope = ScopeLogs(
        scope=InstrumentationScope(name="cloned_proxy"), log_records=[_record(entry) for entry in entries]
    )
    request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope])])
    return bytes(request.SerializeToString())


def trace_id(decision: str) -> bytes:
    """A decision's id (24 hex digits) as a trace id: the same, with zeros in front. b"" for anything else."""
    try:
        raw = bytes.fromhex(decision)
    except ValueError:
        return b""
    return raw.rjust(_TRACE_BYTES, b"\0") if 0 < len(raw) <= _TRACE_BYTES else b""


def _record(entry: Exported) -> LogRecord:
    body = entry.body
    kind, verdict = str(body["type"]), str(body.get("verdict", ""))
    # The end of a flow belongs to the decision that let it begin.
    trace = trace_id(str(body.get("id") or body.get("decision") or ""))
    refused = verdict == "deny"
    return LogRecord(
        time_unix_nano=int(float(body["at"]) * _NANO),
        severity_number=SeverityNumber.SEVERITY_NUMBER_WARN if refused else SeverityNumber.SEVERITY_NUMBER_INFO,
        severity_text="WARN" if refused else "INFO",
        event_name=f"cloned_proxy.{kind}",
        body=AnyValue(string_value=" ".join(filter(None, (kind, verdict, str(body.get("reason") or ""))))),
        trace_id=trace,
        span_id=trace[-_SPAN_BYTES:],
        attributes=[
            _pair("cloned.seq", entry.seq),
            *(
                _pair(_NAMES.get(name, f"cloned.{name}"), value)
                for name, value in body.items()
                if name not in _LEFT_OUT and value is not None and value != ""
            ),
        ],
    )


def _pair(key: str, value: Any) -> KeyValue:
    match value:
        case bool():
            found = AnyValue(bool_value=value)
        case int():
            found = AnyValue(int_value=value)
        case float():
            found = AnyValue(double_value=value)
        case _:
            found = AnyValue(string_value=value if isinstance(value, str) else str(value))
    return KeyValue(key=key, value=found)


class Collector:
    """A connection to one collector, for one thread."""

    def __init__(self, endpoint: str, version: str) -> None:
        """`endpoint` is the collector's base URL, such as http://127.0.0.1:4318."""
        self._url = f"{endpoint.rstrip('/')}/v1/logs"
        self._version = version
        self._client = httpx.Client(timeout=_TIMEOUT, trust_env=False, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, entries: Sequence[Exported]) -> None:
        """Raises ExportError."""
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        content = gzip.compress(encode(entries, self._version), compresslevel=1)
        try:
            answer = self._client.post(self._url, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise ExportError(f"{self._url}: {str(error) or type(error).__name__}") from error
        if answer.status_code != _OK:
            raise ExportError(f"{self._url} answered {answer.status_code}")
