"""Reading a stream of server-sent events by its standard: where lines and events end, and what belongs to their data."""

from __future__ import annotations

from collections.abc import Iterator

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventData:
    """Splits a stream of bytes into the data of its events, whatever the chunks.

    Attributes:
        size: Bytes so far.
    """

    def __init__(self) -> None:
        self.size = 0
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take a chunk; yield the data of each event that ends in it."""
        self.size += len(chunk)
        self._rest += chunk
        # A line that comes byte by byte would otherwise be searched again with each.
        if b"\n" in chunk or b"\r" in chunk:
            if not self._begun:
                self._begun, self._rest = True, self._rest.removeprefix(_BYTE_ORDER_MARK)
            lines = bytes(self._rest).splitlines(keepends=True)
            # What does not end in a line feed may go on, be it only with one.
            self._rest = bytearray(b"" if lines[-1].endswith(b"\n") else lines.pop())
            yield from self._events(lines)

    def end(self) -> Iterator[bytes]:
        """Yield the data of an event that lacks nothing but the empty line after it."""
        whole = [bytes(self._rest)] if self._rest.endswith(b"\r") else []
        yield from self._events([*whole, b"\n"])

    def _events(self, lines: list[bytes]) -> Iterator[bytes]:
        for line in lines:
            name, _, value = line.rstrip(b"\r\n").partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not name and not value and line[:1] != b":":
                data, self._data = b"\n".join(self._data).strip(), []
                if data:
                    yield data
