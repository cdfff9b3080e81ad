"""The measurements of a refinement on disk: a run that was killed or interrupted goes on from them.

Proposers and their generators are not saved. A refinement is a function of its seed and of what its evaluator answers, so the
resumed run starts over, and every measurement that was made before is answered from here, in no time, until they run out. Then
everything is as it was.

A text file, appended to after every call of the evaluator. The first line has the facts that the refinement depends on, how
long it may run not among them; every other line is one call: the image range, a digest of each candidate and its values, which
come back to the last bit. Each line ends in a digest of itself and of the line before it.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import ResumeError
from qcompress.files import output_error
from qcompress.refine.contract import Evaluate
from qcompress.selection import Selection

__all__ = ["FILE", "Journal", "forget", "kept", "name_of"]

FILE = ".refinement.jsonl"
_FORMAT = "qcompress refinement 1"
_CHECK = 16  # hexadecimal digits at the end of a line
_TAIL = len(',"check":""}') + _CHECK
_Key = tuple[str, int, int]
Array = NDArray[np.float64]


def name_of(selection: Selection) -> str:
    """A digest of a candidate: 32 hexadecimal digits."""
    return blake2b(np.packbits(selection.x).tobytes(), digest_size=16).hexdigest()


def forget(folder: Path) -> None:
    """Removes the file: the run is done, and its refinement has nothing left to do."""
    (folder / FILE).unlink(missing_ok=True)


@contextmanager
def kept(evaluate: Evaluate, folder: Path, facts: Mapping[str, str]) -> Iterator[Journal]:
    """`evaluate`, with what was measured before from `folder`, and what is measured now kept there.

    Raises:
        ResumeError: the file there is damaged, or of a refinement with other facts.
        OutputError: it cannot be read or written.

    """
    path = folder / FILE
    known, last, length = _read(path, facts, evaluate.images) if path.exists() else ({}, "", 0)
    journal = Journal(evaluate, path, facts, known, last, length)
    try:
        yield journal
    finally:
        journal.close()


class Journal:
    """An evaluator that answers what it knows from disk and writes down what it measures; the first call makes the file."""

    def __init__(
        self,
        evaluate: Evaluate,
        path: Path,
        facts: Mapping[str, str],
        known: dict[_Key, Array],
        last: str,
        length: int,
    ) -> None:
        self._evaluate, self._path, self._facts, self._known = evaluate, path, facts, known
        self._last, self._length = last, length  # digest of the last whole line, and where it ends
        self._file: FileIO | None = None
        self._began: float | None = None

    @property
    def images(self) -> int:
        """Number of images that a whole evaluation sees."""
        return self._evaluate.images

    @property
    def recalled(self) -> int:
        """Number of measurements that were found on disk: candidates, each on one range of images."""
        return len(self._known)

    def clock(self) -> float:
        """Seconds since the first call that was not answered from disk, 0 before it."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def __call__(self, selections: Sequence[Selection], images: range) -> Array:
        """(K, len(images)) metric of each candidate on each of `images`; only those that are new are measured."""
        names = [name_of(selection) for selection in selections]
        values: Array = np.empty((len(names), len(images)))
        new = []
        for place, name in enumerate(names):
            found = self._known.get((name, images.start, images.stop))
            if found is None:
                new.append(place)
            else:
                values[place] = found
        if new:
            self._began = time.monotonic() if self._began is None else self._began
            values[new] = self._evaluate([selections[place] for place in new], images)
            if np.isfinite(values).all():  # others end the refinement
                self._append([names[place] for place in new], images, values[new])
        return values

    def _append(self, names: list[str], images: range, values: Array) -> None:
        call = {"images": [images.start, images.stop], "candidates": names, "values": values.tolist()}
        lines = b""
        if not self._last:
            self._last, lines = _line({"format": _FORMAT, "of": dict(self._facts)}, self._last)
        self._last, line = _line(call, self._last)
        try:
            self._write(lines + line)
        except OSError as error:
            raise output_error(self._path, error) from error

    def _write(self, data: bytes) -> None:
        """In one call of the system, past every buffer: what is written survives this process."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self._path, "ab")
            self._file.truncate(self._length)  # a last line that was not finished
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, "short write")

    def close(self) -> None:
        """Closes the file; it stays."""
        if self._file is not None:
            self._file.close()


def _line(body: dict[str, Any], last: str) -> tuple[str, bytes]:
    """The digest of a line that follows the one with the digest `last`, and the line."""
    text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    check = _digest(text, last)
    return check, text[:-1] + f',"check":"{check}"}}\n'.encode()


def _digest(text: bytes, last: str) -> str:
    return blake2b(last.encode() + text, digest_size=_CHECK // 2).hexdigest()


def _read(path: Path, facts: Mapping[str, str], images: int) -> tuple[dict[_Key, Array], str, int]:
    """The measurements in a file, the digest of its last whole line, and where that ends: a torn last line is left out."""
    known: dict[_Key, Array] = {}
    last, length = "", 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                check, body = _parsed(line, last, path, number)
                if not last:
                    _check_facts(body, facts, path)
                else:
                    known.update(_measurements(body, images))
                last, length = check, length + len(line)
    except OSError as error:
        raise output_error(path, error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ResumeError):
            raise
        raise _damaged(path, number) from error
    return known, last, length


def _parsed(line: bytes, last: str, path: Path, number: int) -> tuple[str, dict[str, Any]]:
    text = line[: -_TAIL - 1] + b"}"
    check, expected = line[-_CHECK - 3 : -3].decode("ascii", "replace"), _digest(text, last)
    if check != expected:
        raise _damaged(path, number)
    body = json.loads(text)
    if not isinstance(body, dict):
        raise _damaged(path, number)
    return check, body


def _check_facts(body: dict[str, Any], facts: Mapping[str, str], path: Path) -> None:
    if body["format"] != _FORMAT:
        raise ResumeError(f"{path}: its format is {str(body['format'])[:40]!r}, expected {_FORMAT!r}", _anew(path))
    found = dict(body["of"])
    differs = [name for name, value in facts.items() if found.get(name) != value]
    if differs:
        raise ResumeError(
            f"{path} is of another refinement: it differs in {', '.join(differs)}",
            f"give the options that it was begun with, or another --out; {_anew(path)}",
        )


def _measurements(body: dict[str, Any], images: int) -> dict[_Key, Array]:
    start, stop = body["images"]
    if not 0 <= start < stop <= images:
        raise ValueError("images outside their range")
    found = {}
    for name, row in zip(body["candidates"], body["values"], strict=True):
        values = np.asarray(row, np.float64)
        if values.shape != (stop - start,) or not np.isfinite(values).all():
            raise ValueError("not one finite value for each image")
        found[(str(name), int(start), int(stop))] = values
    return found


def _damaged(path: Path, number: int) -> ResumeError:
    return ResumeError(f"{path} is damaged: line {number} is not as it was written", _anew(path))


def _anew(path: Path) -> str:
    return f"to begin anew, remove {path}"
