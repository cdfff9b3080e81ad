"""Reading dimod's file of a model (DIMODBQM 2.0, as documented at `BinaryQuadraticModel.to_file`), with every check.

dimod's own reader trusts the indices in the file: a damaged one can end the process. Here every number is checked before use.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decoded", "decode"]

_MAGIC = b"DIMODBQM"
_LINEAR = np.dtype([("start", "<i4"), ("bias", "<f8")])
_QUADRATIC = np.dtype([("other", "<i4"), ("bias", "<f8")])
_TYPES = {"dtype": "float64", "itype": "int32", "ntype": "int32", "vartype": "BINARY"}


class Decoded(NamedTuple):
    """A BINARY model of n variables: `labels` (n,) as JSON holds them, linear (n,), and every pair once, rows < columns."""

    labels: list[Any]
    linear: NDArray[np.float64]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: NDArray[np.float64]


def decode(data: bytes) -> Decoded:
    """The model in `data`. Memory stays within a small multiple of its length.

    Raises ValueError, with a sentence, for anything that is not such a file with sound contents.
    """
    header, at = _header(data)
    shape = header.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and 0 <= size < 2**31 for size in shape)):
        raise ValueError("its header has no shape")
    wrong = next((key for key, value in _TYPES.items() if header.get(key) != value), None)
    if wrong or header.get("variables") not in (True, False):
        raise ValueError(f"its {wrong or 'variables'} are of another kind than qcompress writes")
    n, pairs = shape
    at += 8 if n or data[at:] else 0  # the offset, which no choice depends on
    linear, at = _array(data, at, _LINEAR, n)
    quadratic, at = _array(data, at, _QUADRATIC, 2 * pairs)
    rows, columns, values = _pairs(linear["start"].astype(np.int64), quadratic, n, pairs)
    biases = linear["bias"].astype(np.float64)
    if not (np.isfinite(biases).all() and np.isfinite(values).all()):
        raise ValueError("its biases are not finite")
    labels = _labels(data[at:]) if header["variables"] else list(range(n))
    if len(labels) != n:
        raise ValueError(f"it names {len(labels)} variables and has {n}")
    return Decoded(labels, biases, rows, columns, values)


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where it ends."""
    if data[:8] != _MAGIC or data[8:10] != b"\x02\x00" or len(data) < 14:
        raise ValueError("it is not a DIMODBQM file of version 2.0")
    end = 14 + int.from_bytes(data[10:14], "little")
    if end > len(data):
        raise ValueError("its header is cut short")
    try:
        header = json.loads(data[14:end])
    except (ValueError, RecursionError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    return header, end


def _array(data: bytes, at: int, kind: np.dtype[Any], length: int) -> tuple[NDArray[Any], int]:
    end = at + length * kind.itemsize
    if end > len(data):
        raise ValueError("its biases are cut short")
    return np.frombuffer(data, kind, length, at), end


def _pairs(
    start: NDArray[np.int64], quadratic: NDArray[Any], n: int, pairs: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Neighbourhoods as pairs: each pair is there twice, once from either side, with the same bias."""
    degrees = np.diff(np.append(start, 2 * pairs)) if n else np.zeros(0, np.int64)
    if (n and (start[0] != 0 or (degrees < 0).any())) or (not n and pairs):
        raise ValueError("its neighbourhoods are out of order")
    own = np.repeat(np.arange(n), degrees)
    other = quadratic["other"].astype(np.int64)
    if len(other) and not (other.min() >= 0 and other.max() < n):
        raise ValueError("a coupling names a variable that there is not")
    sides = []
    for side in (own < other, other < own):
        low, high = np.minimum(own, other)[side], np.maximum(own, other)[side]
        order = np.lexsort((high, low))
        sides.append((low[order], high[order], quadratic["bias"][side][order].astype(np.float64)))
    (low, high, values), mirrored = sides
    if len(low) != pairs or not all(np.array_equal(a, b) for a, b in zip(sides[0], mirrored, strict=True)):
        raise ValueError("its couplings are not the same from both sides")
    if ((np.diff(low) == 0) & (np.diff(high) == 0)).any():
        raise ValueError("a coupling is there twice")
    return low.astype(np.intp), high.astype(np.intp), values


def _labels(data: bytes) -> list[Any]:
    """The section of variable labels: "VARS", its length, JSON."""
    size = int.from_bytes(data[4:8], "little")
    if data[:4] != b"VARS" or 8 + size > len(data):
        raise ValueError("its variables are cut short")
    try:
        labels = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        raise ValueError("its variables are not JSON") from None
    if not isinstance(labels, list):
        raise ValueError("its variables are not a list")
    return labels
