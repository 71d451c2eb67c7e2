#!/bin/sh
# A bracketed IPv6 literal in NO_PROXY, the spelling that URLs use for it, does not exempt an address in httpx: it makes
# every request fail before anything is sent, to whatever host, with `InvalidURL: Invalid port: ':1]'`. urllib of Python
# takes the same value as "go to [::1] directly". Seen with httpx 0.28.1.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check httpx==0.28.1
cat >"$place/try.py" <<'PYTHON'
import http.server, os, threading, urllib.request
import httpx

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *words):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
os.environ["http_proxy"] = url
for value in ("localhost,127.0.0.1", "::1", "[::1]"):
    os.environ["no_proxy"] = value
    try:
        told = httpx.get(url).status_code
    except httpx.InvalidURL as error:
        told = f"InvalidURL: {error}"
    print(f"no_proxy={value}: httpx {told}, urllib {urllib.request.urlopen(url).status}")
PYTHON
env -u HTTP_PROXY -u HTTPS_PROXY -u https_proxy -u ALL_PROXY -u all_proxy -u NO_PROXY \
  "$place/venv/bin/python" "$place/try.py" | tee "$place/seen"
cat >"$place/wanted" <<'TEXT'
no_proxy=localhost,127.0.0.1: httpx 200, urllib 200
no_proxy=::1: httpx 200, urllib 200
no_proxy=[::1]: httpx InvalidURL: Invalid port: ':1]', urllib 200
TEXT
diff "$place/wanted" "$place/seen"
