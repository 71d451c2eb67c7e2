#!/usr/bin/env bash
# h2 4.4.1 (hpack 4.2.0, hyperframe 6.1.0), seen 2026-11-28.
#
# A server that goes away gracefully sends GOAWAY with NO_ERROR and the last stream that it will finish, and then the
# rest of that stream (RFC 9113, section 6.8). Expected: h2's client reports ConnectionTerminated and goes on reading.
# Seen: from that event on each HEADERS or DATA frame of the stream raises ProtocolError, and its state stays CLOSED.
# The code that allows for it: cloned_proxy/proxy/inspection/connections/endpoint.py (`_Connection`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check h2==4.4.1 hpack==4.2.0 hyperframe==6.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import h2.config, h2.connection, h2.events, h2.exceptions
from hyperframe.frame import GoAwayFrame

client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
client.initiate_connection()
server.initiate_connection()
client.send_headers(1, [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")], end_stream=True)
server.receive_data(client.data_to_send())
client.receive_data(server.data_to_send())

events = client.receive_data(GoAwayFrame(0, last_stream_id=1, error_code=0).serialize())
assert any(isinstance(event, h2.events.ConnectionTerminated) for event in events), events
server.send_headers(1, [(":status", "200")])
server.send_data(1, b"the rest", end_stream=True)
try:
    client.receive_data(server.data_to_send())
except h2.exceptions.ProtocolError as error:
    print(f"as seen: behind a graceful GOAWAY the stream that it lets finish raises: {error}")
else:
    raise SystemExit("this has changed: the stream can be read to its end now")
PYTHON
