"""How much compressed data from strangers would unpack to, found out in bounded memory before a library unpacks them."""

from __future__ import annotations

import re
from typing import Protocol

__all__ = ["Unpacker", "count_jpeg_scans", "unpacks_to_more"]

_PIECE = 2**20
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # in compressed data a 0 follows 0xff, or a restart marker
_JPEG_BARE = {0x01, 0xD8}  # markers without a length
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA


class Unpacker(Protocol):
    """What `zlib.decompressobj` and `lzma.LZMADecompressor` have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed stream was reached."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes of what `data` unpacks to."""
        ...


def unpacks_to_more(unpacker: Unpacker, data: bytes, most: int) -> bool:
    """Whether `data` unpack to more than `most` bytes; no more than that and 1 MiB is unpacked. Raises what `unpacker` does."""
    total = 0
    while total <= most:
        piece = unpacker.decompress(data, _PIECE)
        data = getattr(unpacker, "unconsumed_tail", b"")  # lzma keeps it to itself
        total += len(piece)
        if unpacker.eof or not piece:
            break
    return total > most


def count_jpeg_scans(data: bytes) -> int:
    """Scans up to the end of the first picture in a JPEG file."""
    scans, place = 0, 2
    while (found := _JPEG_MARKER.search(data, place)) is not None and found[1][0] != _JPEG_END:
        place = found.end()
        scans += found[1][0] == _JPEG_SCAN
        if found[1][0] not in _JPEG_BARE:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return scans
