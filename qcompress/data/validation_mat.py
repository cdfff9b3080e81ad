"""SIDD's validation blocks: two .mat files, noisy and clean, each (scenes, blocks, 256, 256, 3) uint8 under the file's stem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from qcompress.errors import DataError

__all__ = ["Blocks", "find_pair"]

_HINT = "put ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat of SIDD into the folder"


def find_pair(folder: Path) -> tuple[Path, Path]:
    """The noisy and the clean .mat file in `folder`. Raises DataError if it does not hold exactly one of each."""
    files = sorted(folder.glob("*.mat"))
    noisy = [file for file in files if "noisy" in file.stem.lower()]
    clean = [file for file in files if "gt" in file.stem.lower() or "clean" in file.stem.lower()]
    if len(files) != 2 or len(noisy) != 1 or len(clean) != 1 or noisy == clean:
        raise DataError(f"{folder}: .mat files {[file.name for file in files]}, expected one noisy and one clean", _HINT)
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
        contents = {name: (shape, kind) for name, shape, kind in whosmat(file)}
    except Exception as error:  # what the parser raises over corrupt bytes is open-ended
        raise DataError(f"{file}: not a readable .mat file of version 5 to 7 ({type(error).__name__})", _HINT) from error
    shape, kind = contents.get(file.stem, ((), "nothing"))
    if len(shape) != 5 or shape[-1] != 3 or kind != "uint8":
        raise DataError(f"{file}: {kind} {shape} under {file.stem!r}, expected uint8 (scenes, blocks, height, width, 3)", _HINT)
    return tuple(shape)


def _load(file: Path) -> NDArray[np.uint8]:
    try:
        array: NDArray[np.uint8] = loadmat(file, variable_names=[file.stem])[file.stem]
    except Exception as error:  # as above
        raise DataError(f"{file}: not a readable .mat file ({type(error).__name__})", "copy or download it again") from error
    return array
