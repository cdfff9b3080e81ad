"""SIDD's validation blocks: two .mat files, noisy and clean, each (scenes, blocks, 256, 256, 3) uint8 under the file's stem."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcompress.data.mat_file import MatFileError, read_bytes_array, shape_of
from qcompress.errors import DataError

__all__ = ["Blocks", "find_pair"]

_MOST_BYTES, _MOST_UNPACKED = 2**30, 64  # four times what the files of SIDD hold; per byte of a file: noise hardly packs
_EXPECTED = "expected uint8 (scenes, blocks, height, width, 3) under the file's name"
_HINT = "put ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat of SIDD into the folder"


def find_pair(folder: Path) -> tuple[Path, Path]:
    """The noisy and the clean .mat file in `folder`. Raises DataError if it does not hold exactly one of each."""
    files = sorted(file for file in folder.glob("*.mat") if file.is_file())
    noisy = [file for file in files if "noisy" in file.stem.lower()]
    clean = [file for file in files if "gt" in file.stem.lower() or "clean" in file.stem.lower()]
    if len(files) != 2 or len(noisy) != 1 or len(clean) != 1 or noisy == clean:
        raise DataError(f"{folder}: .mat files {[file.name for file in files[:5]]}, expected one noisy and one clean", _HINT)
    return noisy[0], clean[0]


@dataclass(frozen=True)
class Blocks:
    """The blocks of two .mat files. Both are read whole at the first `read`, for the format knows no other way."""

    noisy: Path
    clean: Path

    def places(self) -> Iterator[tuple[int, int]]:
        """Every (scene, block), from the headers alone."""
        shapes = [_shape(file) for file in (self.noisy, self.clean)]
        if shapes[0] != shapes[1]:
            raise DataError(f"{self.noisy.name} holds {shapes[0]}, {self.clean.name} {shapes[1]}; expected equal shapes", _HINT)
        yield from np.ndindex(*shapes[0][:2])

    def read(self, scene: int, block: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(noisy, clean) of one block, each (3, H, W) in 0..1."""
        noisy, clean = (array[scene, block].transpose(2, 0, 1).astype(np.float32) / 255 for array in self._arrays)
        return noisy, clean

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return _load(self.noisy), _load(self.clean)


def _shape(file: Path) -> tuple[int, ...]:
    try:
        shape = shape_of(file, file.stem)
    except (MatFileError, OSError) as error:
        raise DataError(f"{file}: not a readable .mat file of version 5 to 7 ({error}), {_EXPECTED}", _HINT) from error
    size = file.stat().st_size
    if math.prod(shape) > min(_MOST_BYTES, _MOST_UNPACKED * size):
        raise DataError(f"{file}: claims {math.prod(shape):,} values in {size:,} bytes, {_EXPECTED}", _HINT)
    if len(shape) != 5 or shape[-1] != 3 or 0 in shape:
        raise DataError(f"{file}: {shape} under {file.stem!r}, {_EXPECTED}", _HINT)
    return shape


def _load(file: Path) -> NDArray[np.uint8]:
    try:
        return read_bytes_array(file, file.stem, _MOST_BYTES)
    except (MatFileError, OSError) as error:
        raise DataError(f"{file}: not a readable .mat file: {error}", "copy or download it again") from error
