"""Entries of the log as OTLP log records: POSTs of protobuf to a collector's `/v1/logs`.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. The messages are those of `opentelemetry-proto`, the connection is
our own: it takes no proxy from the environment and follows no redirect, so that it goes where the operator said.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from cloned_proxy.policy.secrets.redact import bounded

_PROTOBUF: Final = "application/x-protobuf"
_TIMEOUT: Final = 10.0
_REFUSES: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
"""Answers about what was sent, which is no better the next time; any other may be different later."""
_INT64: Final = range(-(2**63), 2**63)
_MAX_REASON: Final = 300
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


class CollectorRefusedError(ExportError):
    """The collector will never take it as it is."""


class UnencodableError(Exception):
    """The entry cannot be a log record."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One entry of the log, as a log record."""

    seq: int
    record: LogRecord

    @property
    def size(self) -> int:
        """Bytes of the record, before compression."""
        return int(self.record.ByteSize())


@dataclass(frozen=True, slots=True)
class PartialSuccess:
    """What a collector says of a request that it took."""

    rejected: int = 0
    """Records that it did not keep; it wants none of them again."""
    reason: str = ""


def encode(seq: int, body: Mapping[str, Any]) -> Exported:
    """One entry, as it was recorded. Raises UnencodableError."""
    try:
        return Exported(seq, _record(seq, body))
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UnencodableError(f"{type(error).__name__}: {error}") from error


def trace_id(decision: str) -> bytes:
    """A decision's id (24 hex digits) as a trace id: the same, with zeros in front. b"" for anything else."""
    try:
        raw = bytes.fromhex(decision)
    except ValueError:
        return b""
    return raw.rjust(_TRACE_BYTES, b"\0") if 0 < len(raw) <= _TRACE_BYTES else b""


def _record(seq: int, body: Mapping[str, Any]) -> LogRecord:
    kind, verdict = str(body["type"]), str(body.get("verdict", ""))
    # The end of a flow belongs to the decision that let it begin.
    trace = trace_id(str(body.get("id") or body.get("decision") or ""))
    refused = verdict == "deny"
    return LogRecord(
        time_unix_nano=int(float(body["at"]) * _NANO),
        severity_number=SeverityNumber.SEVERITY_NUMBER_WARN if refused else SeverityNumber.SEVERITY_NUMBER_INFO,
        severity_text="WARN" if refused else "INFO",
        event_name=f"cloned_proxy.{kind}",
        body=AnyValue(string_value=_text(" ".join(filter(None, (kind, verdict, str(body.get("reason") or "")))))),
        trace_id=trace,
        span_id=trace[-_SPAN_BYTES:],
        attributes=[
            _pair("cloned.seq", seq),
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
        case int() if value in _INT64:
            found = AnyValue(int_value=value)
        case float():
            found = AnyValue(double_value=value)
        case _:
            found = AnyValue(string_value=_text(str(value)))
    return KeyValue(key=key, value=found)


def _text(value: str) -> str:
    """Half of a surrogate pair is no UTF-8, and must not keep its entry from whoever reads the export."""
    return value.encode(errors="replace").decode()


class Collector:
    """A connection to one collector, for one thread."""

    def __init__(self, endpoint: str, version: str, proxy: httpx.Proxy | None = None) -> None:
        """`endpoint` is the collector's base URL, such as http://127.0.0.1:4318; `proxy` leads there."""
        self._url = f"{endpoint.rstrip('/')}/v1/logs"
        self._resource = Resource(attributes=[_pair("service.name", "cloned-proxy"), _pair("service.version", version)])
        self._client = httpx.Client(timeout=_TIMEOUT, trust_env=False, follow_redirects=False, proxy=proxy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, entries: Sequence[Exported]) -> PartialSuccess:
        """Raises RefusedError, ExportError."""
        headers = {"Content-Type": _PROTOBUF, "Content-Encoding": "gzip"}
        content = gzip.compress(self._request(entries), compresslevel=1)
        try:
            answer = self._client.post(self._url, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise ExportError(f"{self._url}: {str(error) or type(error).__name__}") from error
        if answer.status_code != HTTPStatus.OK:
            kind = CollectorRefusedError if answer.status_code in _REFUSES else ExportError
            raise kind(f"{self._url} answered {answer.status_code}")
        return _partial_success(answer, len(entries))

    def _request(self, entries: Sequence[Exported]) -> bytes:
        records = ScopeLogs(
            scope=InstrumentationScope(name="cloned_proxy"), log_records=[entry.record for entry in entries]
        )
        request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=self._resource, scope_logs=[records])])
        return bytes(request.SerializeToString())


def _partial_success(answer: httpx.Response, sent: int) -> PartialSuccess:
    """What the answer says; an answer that cannot be read says that all is well, as its status does."""
    try:
        said = ExportLogsServiceResponse.FromString(answer.content).partial_success
    except DecodeError:
        return PartialSuccess()
    return PartialSuccess(min(max(said.rejected_log_records, 0), sent), bounded(said.error_message, _MAX_REASON))
