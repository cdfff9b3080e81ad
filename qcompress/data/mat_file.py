"""One array of 8-bit numbers from a .mat file of version 5 to 7, in bounded memory.

The format is MathWorks' "MAT-File Format" (Level 5). scipy's reader takes everything that the format has, believes sizes, and
crashes the process on some damaged files; a stranger's file is read here instead, and only what is wanted of it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["MatFileError", "read_bytes_array", "shape_of"]

_HEADER, _PIECE = 128, 2**20
_INT8, _UINT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 2, 5, 6, 14, 15
_CLASS_UINT8, _COMPLEX, _LOGICAL = 9, 0x0800, 0x0200
_LONGEST_NAME, _MOST_DIMENSIONS = 4096, 32

Read = Callable[[int], bytes]  # exactly so many bytes, or MatFileError


class MatFileError(Exception):
    """The file is damaged, of another version, or has no such array; the text says which."""


def shape_of(path: Path, name: str) -> tuple[int, ...]:
    """Shape of the uint8 array `name`, from its header. Raises MatFileError, and OSError."""
    with path.open("rb") as file:
        return _find(file, name).shape


def read_bytes_array(path: Path, name: str, most_bytes: int) -> NDArray[np.uint8]:
    """The uint8 array `name`, if it has at most `most_bytes`; no more is unpacked. Raises MatFileError, and OSError."""
    with path.open("rb") as file:
        found = _find(file, name)
        size = math.prod(found.shape)
        if size > most_bytes:
            raise MatFileError(f"{name} takes {size:,} bytes, expected at most {most_bytes:,}")
        kind, count, packed = _tag(found.read, found.order)
        if kind != _UINT8 or count != size:
            raise MatFileError(f"{name} holds something else than its header says")
        data = packed[:count] if packed else found.read(count)
        return np.frombuffer(data, np.uint8).reshape(found.shape, order="F")


@dataclass(frozen=True, eq=False)
class _Found:
    """An array whose header was read: `read` goes on with its data."""

    shape: tuple[int, ...]
    read: Read
    order: str


def _find(file: BinaryIO, name: str) -> _Found:
    for variable, found in _variables(file):
        if variable == name and found is not None:
            return found
        if variable == name:
            raise MatFileError(f"{name} is no array of uint8")
    raise MatFileError(f"there is no {name} in it")


def _variables(file: BinaryIO) -> Iterator[tuple[str, _Found | None]]:
    """The variables one after the other; None for what is no real uint8 array."""
    header = file.read(_HEADER)
    if len(header) < _HEADER or header[126:] not in (b"IM", b"MI") or 1 not in header[124:126]:
        raise MatFileError("not a .mat file of version 5 to 7")
    order = "<" if header[126:] == b"IM" else ">"
    plain = _exactly(file.read)
    while beginning := file.read(8):
        kind, count = struct.unpack(f"{order}II", beginning.ljust(8, b"\0"))
        end = file.tell() + count
        if kind == _COMPRESSED:
            read = _exactly(_Inflating(file, count).read)
            kind, _, _ = _tag(read, order)
        else:
            read = plain
        if kind == _MATRIX:
            yield _matrix(read, order)
        file.seek(end)


def _matrix(read: Read, order: str) -> tuple[str, _Found | None]:
    flags = struct.unpack(f"{order}II", _element(read, order, _UINT32, 8).ljust(8, b"\0"))[0]
    sizes = _element(read, order, _INT32, 4 * _MOST_DIMENSIONS)
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes[: len(sizes) // 4 * 4])
    name = _element(read, order, _INT8, _LONGEST_NAME).decode("latin-1")
    wanted = flags & 0xFF == _CLASS_UINT8 and not flags & (_COMPLEX | _LOGICAL) and all(size >= 0 for size in shape)
    return name, _Found(shape, read, order) if wanted else None


def _element(read: Read, order: str, expected: int, most: int) -> bytes:
    """The data of the next element, without the padding to 8 bytes."""
    kind, count, packed = _tag(read, order)
    if kind != expected or count > most:
        raise MatFileError(f"an element of type {kind} and {count:,} bytes, expected type {expected}, at most {most:,}")
    if packed:
        return packed[:count]
    return read(-(-count // 8) * 8)[:count]


def _tag(read: Read, order: str) -> tuple[int, int, bytes]:
    """Type and bytes of an element; up to 4 bytes of data may be in the tag itself."""
    tag = read(8)
    kind, count = struct.unpack(f"{order}II", tag)
    if kind >> 16:
        if kind >> 16 > 4:
            raise MatFileError("a short element of more than 4 bytes")
        return kind & 0xFFFF, kind >> 16, tag[4:]
    return kind, count, b""


def _exactly(read: Read) -> Read:
    def exact(count: int) -> bytes:
        data = read(count)
        if len(data) < count:
            raise MatFileError("it ends early")
        return data

    return exact


class _Inflating:
    """Reads what `count` compressed bytes of a file unpack to, never more than is asked for."""

    def __init__(self, file: BinaryIO, count: int) -> None:
        self._file, self._left = file, count
        self._unpacker, self._waiting = zlib.decompressobj(), b""

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end."""
        found = bytearray()
        while len(found) < count and not self._unpacker.eof:
            if not self._waiting:
                self._waiting = self._file.read(min(self._left, _PIECE))
                self._left -= len(self._waiting)
            try:
                piece = self._unpacker.decompress(self._waiting, count - len(found))
            except zlib.error as error:
                raise MatFileError(f"damaged: {error}") from error
            if not self._waiting and not piece:
                break
            self._waiting = self._unpacker.unconsumed_tail
            found += piece
        return bytes(found)
