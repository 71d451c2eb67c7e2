"""The ClientHello of a tunnel while it comes, in as many pieces as the client likes."""

from __future__ import annotations

from cloned_proxy.proxy.wire.client_hello import ClientHelloReader, ServerNames, Unread


class AwaitedHello:
    """Looks at a buffer that grows, and takes nothing of it."""

    __slots__ = ("_reader", "_seen")

    def __init__(self) -> None:
        self._reader = ClientHelloReader()
        self._seen = 0

    @property
    def begun(self) -> bool:
        return self._seen > 0

    @property
    def size(self) -> int:
        """Bytes of the whole ClientHello, once there is one."""
        return self._reader.end

    def look(self, buffer: bytearray) -> ServerNames | Unread:
        """The names that the buffer asks for, or why there are none yet, or never."""
        fresh = bytes(buffer[self._seen :])
        if not fresh:
            return Unread.NEED_MORE
        self._seen += len(fresh)
        return self._reader.feed(fresh)
