"""What a Parquet file unpacks to, as the headers of its pages say, before anything is unpacked.             [pure]

    file    PAR1, pages, footer, bytes of the footer (4, little end first), PAR1
    page    header (bytes packed, bytes unpacked, encoding), then the bytes packed

A reader makes room for what a header says and takes no more, so a page that says little gives little. Headers and
footer are in the compact protocol of Apache Thrift (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md);
the numbers of their fields are those of parquet.thrift (github.com/apache/parquet-format).
"""

from __future__ import annotations

from typing import Any

__all__ = ["unpacked"]

PREFIXED = 7  # DELTA_BYTE_ARRAY: a value may stand for far more bytes than its page has
ENCODING = ((5, 2), (7, 2), (8, 4))  # of pages of values, of dictionaries, and of values in the second version
DEEPEST = 16


def unpacked(data: bytes) -> int:
    """Bytes of all pages of a Parquet file, unpacked. ValueError or IndexError where it is none that we would write."""
    size = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != b"PAR1" or size > len(data) - 12:
        raise ValueError("it has no footer")
    footer, total, walked = _Thrift(data, len(data) - 8 - size).struct(), 0, 0
    for group in footer[4]:
        for column in group[1]:
            about = column[3]
            page = _Thrift(data, min(about[9], about.get(11) or about[9]))
            end = page.at + about[7]
            while page.at < end:
                begin, header = page.at, page.struct()
                if (
                    PREFIXED in [header.get(kind, {}).get(key) for kind, key in ENCODING]
                    or min(header[2], header[3]) < 0
                ):
                    raise ValueError("a page of this kind is not read")
                total, page.at = total + header[2], page.at + header[3]
                walked += page.at - begin
                if walked > len(data):
                    raise ValueError("its pages overlap")
    return total


class _Thrift:
    """Reads structs of the compact protocol, as dicts: number of a field -> value.

    Args:
        at: where the first one begins; then where the next value does.
    """

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The struct that begins here."""
        if depth > DEEPEST or self.at < 0:
            raise ValueError("its footer is damaged")
        found, field = dict[int, Any](), 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            found[field] = head & 15 == 1 if head & 15 in (1, 2) else self._value(head & 15, depth)
        return found

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _length(self) -> int:
        value = shift = 0
        while (byte := self._byte()) > 127:
            value, shift = value | (byte & 127) << shift, shift + 7
            if shift > 63:
                raise ValueError("its footer is damaged")
        return value | byte << shift

    def _number(self) -> int:
        value = self._length()
        return value >> 1 ^ -(value & 1)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):  # in a list a truth value is a byte
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind in (7, 8):  # a double, or bytes
            size = 8 if kind == 7 else self._length()
            self.at += size
            return self.data[self.at - size : self.at]
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._length()
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError("its footer is damaged")
