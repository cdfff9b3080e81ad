"""The widths that a layer's weights can have in a file that runs: what they are called, and how many bits a weight takes.

Only what onnxruntime executes is here. float32 is the network as it is. float16 is storage: weights are widened when the file
is opened, and computed with as float32. int8 is static quantisation, of weights and of what they are multiplied with, computed
in integers. int4 is storage again, of weights; what is computed with them is float32, or integers where every layer has
one of int8 and int4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qcompress.errors import UsageError

__all__ = ["BITS", "LEAST_DB", "WIDTHS", "counted", "parse_bits"]

BITS: Mapping[str, int] = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
"""Bits of a weight, by the name of the width."""

WIDTHS = tuple(BITS)
"""The names, the widest first."""

LEAST_DB = 40.0
"""Least distance of integer arithmetic from the file as written; where a layer is computed otherwise, less is left."""


def counted(widths: Iterable[str]) -> str:
    """How many there are of each, for people; the widest first.

    >>> counted(["int8", "float32", "int8"]), counted([])
    ('1 float32, 2 int8', '')
    """
    each = list(widths)
    return ", ".join(f"{each.count(name)} {name}" for name in WIDTHS if name in each)


def parse_bits(text: str) -> tuple[str, ...]:
    """The widths that `--bits` allows, the widest first: "auto" for all, or a comma-separated list of bits.

    Raises UsageError for anything else.

    >>> parse_bits("auto"), parse_bits("8, 32")
    (('float32', 'float16', 'int8', 'int4'), ('float32', 'int8'))
    """
    if text.strip() == "auto":
        return WIDTHS
    asked = {part.strip() for part in text.split(",")}
    unknown = asked - {str(bits) for bits in BITS.values()}
    if unknown:
        known = ", ".join(str(bits) for bits in BITS.values())
        raise UsageError(f"bits {text!r} are not known, expected auto or some of {known}", "--bits 8,16 allows two widths")
    return tuple(name for name, bits in BITS.items() if str(bits) in asked)
