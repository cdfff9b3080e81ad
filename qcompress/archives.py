"""Zip archives from strangers (.pt, .pt2, .npz): their directory is checked before anything in them is unpacked."""

from __future__ import annotations

import os
import struct
import zipfile
from itertools import pairwise
from typing import BinaryIO

__all__ = ["member_names"]

_END, _END_SIZE = b"PK\x05\x06", 22  # end of the central directory
_LOCATOR, _LOCATOR_SIZE = b"PK\x06\x07", 20  # in front of it, where the archive has 64-bit records
_END_64, _END_64_SIZE = b"PK\x06\x06", 56
_LOCAL_SIZE = 30  # of the fixed part of what stands before a member's data
_SPARE = 2**20  # bytes that even a small archive may unpack to
_ENCRYPTED = 1


def member_names(file: BinaryIO, *, most_growth: float) -> tuple[str, ...]:
    """Names of the members of a zip archive, in the order of its directory; nothing is unpacked.

    An archive passes if it unpacks to at most `most_growth` times its own bytes (and 1 MiB), no two members share bytes or a
    name, none is encrypted, and it ends with its directory and begins with its first member. Two readers then see the same
    members: what is checked here is what another library unpacks.

    Raises:
        BadZipFile: what is wrong, as one line.

    """
    size = file.seek(0, os.SEEK_END)
    start = _directory_start(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            found = archive.start_dir
    except (ValueError, OSError, EOFError, struct.error, NotImplementedError, LookupError, ArithmeticError) as error:
        raise zipfile.BadZipFile(f"its directory is damaged: {error}") from error
    if found != start:
        raise zipfile.BadZipFile("its directory is not where it says")
    _check_members(members, start, size, most_growth)
    return tuple(member.filename for member in members)


def _check_members(members: list[zipfile.ZipInfo], start: int, size: int, most_growth: float) -> None:
    unpacked = sum(member.file_size for member in members)
    if unpacked > most_growth * size + _SPARE:
        raise zipfile.BadZipFile(f"unpacks to {unpacked:,} bytes, far more than the {size:,} that it has")
    if len({member.filename for member in members}) < len(members):
        raise zipfile.BadZipFile("holds two members of one name")
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise zipfile.BadZipFile("is encrypted")
    places = sorted((member.header_offset, member.header_offset + _LOCAL_SIZE + member.compress_size) for member in members)
    if any(end > begin for (_, end), (begin, _) in pairwise([*places, (start, start)])):
        raise zipfile.BadZipFile("its members overlap or are cut off")


def _directory_start(file: BinaryIO, size: int) -> int:
    """Where the directory begins, by the record at the very end of the file."""
    end = size - _END_SIZE
    record = _read(file, end, _END_SIZE)
    if not record.startswith(_END) or record[20:22] != b"\0\0":
        raise zipfile.BadZipFile("does not end like a zip archive")
    directory_size, start = struct.unpack("<II", record[12:20])
    locator = _read(file, end - _LOCATOR_SIZE, _LOCATOR_SIZE)
    if locator.startswith(_LOCATOR):
        end -= _LOCATOR_SIZE + _END_64_SIZE
        record = _read(file, end, _END_64_SIZE)
        if not record.startswith(_END_64) or struct.unpack("<Q", locator[8:16])[0] != end:
            raise zipfile.BadZipFile("its directory is not where it says")
        directory_size, start = struct.unpack("<QQ", record[40:56])
    if start + directory_size != end:
        raise zipfile.BadZipFile("its directory is not where it says")
    return int(start)


def _read(file: BinaryIO, place: int, count: int) -> bytes:
    if place < 0:
        return b""
    file.seek(place)
    return file.read(count)
