"""Load from inside the fake internet: `python -m tests.net.load PORT SECONDS CA` → one JSON object.

Each worker asks, in turn, over plain HTTP and through a tunnel, for a host that is always allowed, one that is never
allowed, and one that the policy allows now and then. An answer is its status; 0 stands for none.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections import Counter

ALWAYS, NEVER, SOMETIMES = "api.example.com", "evil.example.net", "other.example.com"
_WORKERS = 12


async def _status(reader: asyncio.StreamReader) -> int:
    words = (await reader.readline()).split()
    return int(words[1]) if len(words) > 1 else 0


async def _plain(port: int, host: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET http://{host}/load HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return await _status(reader)
    finally:
        writer.transport.abort()


async def _tunnel(port: int, host: str, context: ssl.SSLContext) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
        status = await _status(reader)
        if status != 200:
            return status
        await reader.readuntil(b"\r\n")
        await writer.start_tls(context, server_hostname=host)
        writer.write(f"GET /load HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return await _status(reader)
    finally:
        writer.transport.abort()


async def _work(port: int, until: float, context: ssl.SSLContext, seen: Counter[str], times: list[float]) -> None:
    while time.monotonic() < until:
        for host in (ALWAYS, NEVER, ALWAYS, SOMETIMES):
            for way in ("http", "tunnel"):
                started = time.monotonic()
                try:
                    async with asyncio.timeout(60):
                        status = await (_plain(port, host) if way == "http" else _tunnel(port, host, context))
                except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                    status = 0
                    seen[f"{host} {way} {type(error).__name__}"] += 1
                seen[f"{host} {status}"] += 1
                times.append(time.monotonic() - started)


async def main() -> None:
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    context = ssl.create_default_context(cafile=sys.argv[3])
    seen: Counter[str] = Counter()
    times: list[float] = []
    until = time.monotonic() + seconds
    await asyncio.gather(*(_work(port, until, context, seen, times) for _ in range(_WORKERS)))
    print(json.dumps({"seen": seen, "requests": len(times), "slowest": max(times)}))  # noqa: T201  its one result, on stdout


if __name__ == "__main__":
    asyncio.run(main())
