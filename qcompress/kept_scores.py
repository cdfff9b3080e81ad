"""Scores on disk: a run whose backend failed leaves them, and the same run takes them up again.

One safetensors file: plain arrays, no code, no compression. It holds the key of everything the scores depend on, and is used
for that key only.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import OutputError
from qcompress.files import write_bytes
from qcompress.scores import Scores
from qcompress.selection import UnitSpace

__all__ = ["FILE", "digest_of", "forget", "keep", "key_of", "recall"]

FILE = ".scores.safetensors"
_VECTORS = ("magnitude", "taylor", "fisher")
_HEADER = 2**20  # bytes that the names and shapes may take
_SAMPLES = 4096  # so many rows of gradients at most: a file with more is not read, and the units are scored again


def key_of(**facts: Any) -> str:
    """A hash of everything that the scores depend on: plain values by name.

    >>> key_of(seed=0) == key_of(seed=0), key_of(seed=0) == key_of(seed=1)
    (True, False)
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def digest_of(array: NDArray[Any]) -> str:
    """SHA-256 of an array: its shape, its type, its numbers."""
    facts = f"{array.shape} {array.dtype.str}".encode()
    return hashlib.sha256(facts + np.ascontiguousarray(array).tobytes()).hexdigest()


def keep(scores: Scores, key: str, folder: Path) -> Path | None:
    """Writes the scores into `folder`; returns the file, or None where that is not possible: the run has failed anyway."""
    from safetensors.numpy import save

    path = folder / FILE
    try:
        write_bytes(path, save({"key": np.frombuffer(key.encode(), np.uint8).copy(), **_arrays(scores)}))
    except OutputError:
        return None
    return path


def recall(space: UnitSpace, key: str, folder: Path) -> Scores | None:
    """The scores kept in `folder` under `key`, or None: no file, another key, damaged, or of another space."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / FILE
    expected = 8 * ((3 + _SAMPLES) * len(space) + sum(size**2 for size in space.sizes)) + len(key)
    try:
        if not path.is_file() or path.stat().st_size > expected + _HEADER:
            return None
        found = load(path.read_bytes())
        if found.pop("key").tobytes() != key.encode():
            return None
        similarity = tuple(_matrix(found.pop(f"similarity.{g}")) for g in range(len(space.sizes)))
        magnitude, taylor, fisher = (_matrix(found.pop(name)) for name in _VECTORS)
        gradients = _matrix(found.pop("gradients")) if "gradients" in found else None
        return Scores(space, magnitude, taylor, fisher, similarity, gradients)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def forget(folder: Path) -> None:
    """Removes the file: the run is done."""
    (folder / FILE).unlink(missing_ok=True)


def _arrays(scores: Scores) -> dict[str, NDArray[np.float64]]:
    vectors = {name: np.ascontiguousarray(getattr(scores, name), np.float64) for name in _VECTORS}
    squares = {f"similarity.{g}": np.ascontiguousarray(s, np.float64) for g, s in enumerate(scores.similarity)}
    rows = {} if scores.gradients is None else {"gradients": np.ascontiguousarray(scores.gradients, np.float64)}
    return {**vectors, **squares, **rows}


def _matrix(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype != np.float64 or not np.isfinite(array).all():
        raise ValueError("not finite numbers of 64 bits")
    return array
