"""Amounts as people write them: bytes with a unit, or a share of a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from qcompress.targets import parse_amount

__all__ = ["Size", "parse_bytes", "parse_size"]


@dataclass(frozen=True)
class Size:
    """A number of bytes, or a share (0 < share <= 1) of those of something else: one of the two."""

    bytes: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        """As `parse_size` takes it."""
        return str(self.bytes) if self.bytes is not None else f"{self.share:.9g}"

    def of(self, whole: int) -> int:
        """In bytes, where the whole has `whole`; rounded down.

        >>> Size(share=0.25).of(1001), Size(bytes=12).of(1001)
        (250, 12)
        """
        if self.bytes is not None:
            return self.bytes
        return math.floor(Fraction(str(self.share)) * whole)


def parse_bytes(text: str, option: str) -> int:
    """A number of bytes, the value of `option`, rounded down; units as `targets.parse_amount` has them.

    >>> parse_bytes("900kB", "--max-size"), parse_bytes("1.5 MiB", "--max-size"), parse_bytes("4096", "--max-size")
    (900000, 1572864, 4096)
    """
    return math.floor(parse_amount(text, "size", option))


def parse_size(text: str, option: str) -> Size:
    """A share above 0 up to 1, or a number of bytes: the value of `option`.

    >>> parse_size("0.25", "--target-size"), parse_size("900kB", "--target-size")
    (Size(bytes=None, share=0.25), Size(bytes=900000, share=None))
    """
    try:
        share = float(text)
    except ValueError:
        return Size(bytes=parse_bytes(text, option))
    if 0 < share <= 1:
        return Size(share=share)
    return Size(bytes=parse_bytes(text, option))
