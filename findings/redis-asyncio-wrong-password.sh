#!/bin/sh
# A wrong password of a Redis store: the two clients of one library raise different errors, and both log in eleven times.
#
# Expected: redis.Redis and redis.asyncio.Redis raise AuthenticationError at once: a password that is refused will be
# refused again.
# Seen with redis 8.1.0 (PyPI) and Redis 7.0 of Debian: both treat it as a connection that was lost, so that one PING is
# eleven refused logins, with growing pauses (seconds). At the end the synchronous client raises AuthenticationError, the
# asynchronous one a plain ConnectionError, whose __cause__ is the AuthenticationError: who tells "the password is wrong"
# from "the store is away" has to look there.
set -eu
command -v redis-server >/dev/null || { echo "this needs redis-server (apt-get install redis-server)" >&2; exit 2; }
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check redis==8.1.0
redis-server --port 0 --unixsocket "$work/socket" --requirepass right --save "" >"$work/log" 2>&1 &
server=$!
"$work/env/bin/python" - "$work/socket" <<'EOF'
import asyncio
import os
import sys
import time

import redis
import redis.asyncio
from redis.exceptions import AuthenticationError, ConnectionError

path = sys.argv[1]
while not os.path.exists(path):
    time.sleep(0.05)


def refused(error):
    return f"{type(error).__name__}, cause {type(error.__cause__).__name__}"


def logins():
    with redis.Redis(unix_socket_path=path, password="right") as good:
        return good.info("errorstats")["errorstat_WRONGPASS"]["count"]


try:
    redis.Redis(unix_socket_path=path, password="wrong").ping()
except Exception as error:
    synchronous = error
once = logins()


async def ask():
    async with redis.asyncio.Redis(unix_socket_path=path, password="wrong") as client:
        await client.ping()


try:
    asyncio.run(ask())
except Exception as error:
    asynchronous = error
again = logins() - once
print(f"redis.Redis: {refused(synchronous)}; logins refused: {once}")
print(f"redis.asyncio.Redis: {refused(asynchronous)}; logins refused: {again}")
assert type(synchronous) is AuthenticationError, "the synchronous client raises something else now"
assert type(asynchronous) is ConnectionError, "redis.asyncio raises something else now"
assert type(asynchronous.__cause__) is AuthenticationError, "the cause is something else now"
assert once == again == 11, "a refused password is tried again more or less often now"
EOF
echo "as described"
