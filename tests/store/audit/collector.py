"""A collector of OpenTelemetry, as far as the export of logs needs one."""

from __future__ import annotations

import gzip
import http.server
import threading
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord


class Receiver:
    """Takes `/v1/logs` on loopback, or answers `status` while that is not 200, or nothing while it hangs.

    A request of more than `limit` bytes is answered 413, one with an entry of `poison` 400, and `rejects` is how many
    records of each request it does not keep.
    """

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.resource: dict[str, str] = {}
        self.status = 200
        self.limit = 2**30
        self.poison: set[int] = set()
        self.rejects = 0
        self.sizes: list[int] = []
        self.hang = threading.Event()
        self.hang.set()
        self.asked = 0
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.asked += 1
                receiver.hang.wait(30)
                data = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
                assert (self.path, self.headers["Content-Type"]) == ("/v1/logs", "application/x-protobuf")
                status, content = receiver.answer(data)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def answer(self, data: bytes) -> tuple[int, bytes]:
        self.sizes.append(len(data))
        request = ExportLogsServiceRequest.FromString(data)
        said = ExportLogsServiceResponse()
        if self.rejects:
            said.partial_success.rejected_log_records = self.rejects
            said.partial_success.error_message = "no room"
        if self.status != 200:
            return self.status, b""
        if len(data) > self.limit:
            return 413, b""
        if self.poison & {number_of(r) for scope in request.resource_logs[0].scope_logs for r in scope.log_records}:
            return 400, b""
        self.take(request)
        return 200, said.SerializeToString()

    def take(self, request: ExportLogsServiceRequest) -> None:
        (resource,) = request.resource_logs
        self.resource = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
        for scope in resource.scope_logs:
            self.records += scope.log_records

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()


def attributes(record: LogRecord) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in record.attributes}


def number_of(record: LogRecord) -> int:
    return int(str(attributes(record).get("cloned.id", "-1")), 16)
