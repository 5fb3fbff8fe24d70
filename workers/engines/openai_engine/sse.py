"""Server-sent events, as far as OpenAI's streams use them. Pure.

Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream".
"""

from __future__ import annotations

import re

# A chunk with many log-probabilities stays far below.
MAX_EVENT_BYTES = 1 << 22
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


class EventReader:
    """Puts the data of events together from bytes that come in any pieces."""

    def __init__(self) -> None:
        self._bytes = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that are complete now.

        Raises:
            ValueError: an event is longer than MAX_EVENT_BYTES, or no UTF-8.
        """
        self._bytes += piece
        *lines, self._bytes = _LINE_END.split(self._bytes)
        found = [event for line in lines if (event := self._line(line)) is not None]
        if len(self._bytes) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise ValueError(f"an event has more than {MAX_EVENT_BYTES} bytes")
        return found

    def _line(self, line: bytes) -> str | None:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        if not self._data:
            return None
        data, self._data = b"\n".join(self._data), []
        return data.decode()
