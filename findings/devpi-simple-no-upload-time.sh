#!/bin/sh
# devpi-server answers the JSON of PEP 691 and leaves the upload times out.
#
# Expected: an index that speaks `application/vnd.pypi.simple.v1+json` tells `upload-time` for the files that were
# uploaded to it (PEP 700), as PyPI does: devpi stores the time of each upload.
# Seen with devpi-server 6.20.3: api-version 1.0, no `upload-time`, for files of its own index. So a rule with
# `registry` and `min_age` refuses them as being of unknown age, unless its `allow` names the project.
set -eu
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 DEVPI_CLIENTDIR="$work/client"
python3 -m venv "$work/env"
bin=$work/env/bin
"$bin/python" -m pip install --quiet --disable-pip-version-check devpi-server==6.20.3 devpi-client==7.3.0
"$bin/devpi-init" --serverdir "$work/server" --no-root-pypi >"$work/init.log" 2>&1
port=$("$bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$bin/devpi-server" --serverdir "$work/server" --host 127.0.0.1 --port "$port" --offline-mode >"$work/server.log" 2>&1 &
server=$!
index=http://127.0.0.1:$port
"$bin/python" - "$index" <<'EOF'
import sys, time, urllib.request
for _ in range(600):
    try:
        urllib.request.urlopen(sys.argv[1] + "/+api").read()
        break
    except OSError:
        time.sleep(0.1)
EOF
"$bin/devpi" use "$index" >/dev/null
"$bin/devpi" user -c pad password= >/dev/null
"$bin/devpi" login pad --password "" >/dev/null
"$bin/devpi" index -c dev bases= volatile=True >/dev/null
"$bin/devpi" use pad/dev >/dev/null
"$bin/python" - "$work/example_pad-1.0-py3-none-any.whl" <<'EOF'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    about = "example_pad-1.0.dist-info/"
    wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\nName: example-pad\nVersion: 1.0\n")
    wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(about + "RECORD", "")
EOF
"$bin/devpi" upload --no-vcs "$work/example_pad-1.0-py3-none-any.whl" >/dev/null
"$bin/python" - "$index" <<'EOF'
import json, sys, urllib.request
kind = "application/vnd.pypi.simple.v1+json"
request = urllib.request.Request(sys.argv[1] + "/pad/dev/+simple/example-pad/", headers={"Accept": kind})
with urllib.request.urlopen(request) as answer:
    assert answer.headers["Content-Type"] == kind, answer.headers["Content-Type"]
    page = json.load(answer)
print("api-version", page["meta"]["api-version"], "keys of a file:", sorted(page["files"][0]))
sys.exit("changed: it tells upload times now" if "upload-time" in page["files"][0] else 0)
EOF
