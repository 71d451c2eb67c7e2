#!/bin/sh
# prometheus_client gives a metric whose name has a colon two names: with the colon in its text format, with an
# underscore in OpenMetrics. Prometheus asks for OpenMetrics first, curl gets the text.
#
# Expected: the name that the program registered, in both; a colon is legal in both formats.
# Seen with prometheus_client 0.24.1 (since 0.23; 0.22.1 keeps the colon): `app:requests_total` for text/plain,
# `app_requests_total` for application/openmetrics-text, the colon again with `escaping=allow-utf-8`. So vLLM's
# `vllm:…` metrics have another name in a Prometheus 2 than in its documentation, and a panel has to ask for both.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check prometheus_client==0.24.1
"$work/env/bin/python" - <<'PROGRAM'
import sys
import urllib.request

import prometheus_client

registry = prometheus_client.CollectorRegistry()
prometheus_client.Counter("app:requests", "A colon.", registry=registry).inc()
server, _ = prometheus_client.start_http_server(0, "127.0.0.1", registry=registry)
expected = {
    "text/plain;version=0.0.4": "app:requests_total",
    "application/openmetrics-text;version=1.0.0": "app_requests_total",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8": "app:requests_total",
}
changed = False
for accept, name in expected.items():
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.split()[0] for line in lines if line.endswith(" 1.0") and "_total" in line]
    print(f"{accept}: {found}")
    changed |= found != [name]
server.shutdown()
sys.exit("changed: prometheus_client names it otherwise now" if changed else 0)
PROGRAM
