"""Amounts as people write them: bytes with a unit, or a share of a whole."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from qcompress.errors import UsageError

__all__ = ["Size", "parse_bytes", "parse_size"]

_BYTES = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_AMOUNT = re.compile(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kmg]i?)?(b?)", re.IGNORECASE)


@dataclass(frozen=True)
class Size:
    """A number of bytes, or a share (0 < share <= 1) of those of something else: one of the two."""

    bytes: int | None = None
    share: float | None = None

    def of(self, whole: int) -> int:
        """In bytes, where the whole has `whole`; rounded down.

        >>> Size(share=0.25).of(1001), Size(bytes=12).of(1001)
        (250, 12)
        """
        if self.bytes is not None:
            return self.bytes
        return math.floor(Fraction(str(self.share)) * whole)


def parse_bytes(text: str) -> int:
    """A number of bytes: kB, MB, GB are powers of ten, KiB, MiB, GiB of two; rounded down.

    Raises UsageError.

    >>> parse_bytes("900kB"), parse_bytes("1.5 MiB"), parse_bytes("4096")
    (900000, 1572864, 4096)
    """
    found = _AMOUNT.fullmatch(text.strip())
    amount = Fraction(found.group(1)) * _BYTES[(found.group(2) or "").lower()] if found else Fraction(0)
    if amount < 1:
        raise UsageError(f"{text!r} is no number of bytes, expected one such as 900kB or 1.5MB")
    return math.floor(amount)


def parse_size(text: str) -> Size:
    """A share above 0 up to 1, or a number of bytes.

    >>> parse_size("0.25"), parse_size("900kB")
    (Size(bytes=None, share=0.25), Size(bytes=900000, share=None))
    """
    try:
        share = float(text)
    except ValueError:
        return Size(bytes=parse_bytes(text))
    if 0 < share <= 1:
        return Size(share=share)
    if share > 1 and share == int(share):
        return Size(bytes=int(share))
    raise UsageError(f"size {text!r}: expected a share of the dense file above 0 up to 1, or bytes such as 900kB")
