#!/bin/sh
# `Webhook.sign` of the Standard Webhooks library for Python takes the digits of a datetime for UTC whatever zone it carries: the
# same instant written in another zone gets another signature, which the library's own `verify` then refuses. Only a datetime in UTC
# is signed right. Seen with standardwebhooks 1.1.0.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check standardwebhooks==1.1.0
cat >"$place/try.py" <<'PYTHON'
import time
from datetime import UTC, datetime, timedelta, timezone
from standardwebhooks import Webhook, WebhookVerificationError

hook, now = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), int(time.time())
for name, zone in (("UTC", UTC), ("+02:00", timezone(timedelta(hours=2)))):
    signature = hook.sign("msg_1", datetime.fromtimestamp(now, zone), "{}")
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now), "webhook-signature": signature}
    try:
        hook.verify("{}", headers)
        print(f"{name}: verified")
    except WebhookVerificationError as error:
        print(f"{name}: {error}")
PYTHON
"$place/venv/bin/python" "$place/try.py" | tee "$place/seen"
cat >"$place/wanted" <<'TEXT'
UTC: verified
+02:00: No matching signature found
TEXT
diff "$place/wanted" "$place/seen"
