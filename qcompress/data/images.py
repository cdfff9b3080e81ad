"""Pairs of images and the three roles they can have.

A role is a type: what scores (`Calibration*`), what chooses (`Selection*`) and what reports (`Report*`) cannot be passed for
one another without a type checker, and `Splits`, seeing the pixels' hashes, noticing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcompress.errors import DataError

__all__ = [
    "CalibrationCrops",
    "CalibrationImages",
    "Crops",
    "ImageSet",
    "Pair",
    "ReportImages",
    "SelectionCrops",
    "SelectionImages",
    "Splits",
]


@dataclass(frozen=True, eq=False)
class Pair:
    """One degraded image and its clean original, float32 (C, H, W); clean in 0..1, noisy may leave that range."""

    name: str
    scene: str
    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.noisy.shape != self.clean.shape or self.noisy.ndim != 3:
            raise DataError(
                f"{self.name}: noisy is {self.noisy.shape}, clean {self.clean.shape}; expected two equal (C, H, W) shapes",
                "crop or resize the pair to one size",
            )

    @cached_property
    def sha256(self) -> str:
        """Hash of the clean pixels (8 bit): two pairs with the same hash show the same picture."""
        pixels = np.round(np.clip(self.clean, 0, 1) * 255).astype(np.uint8)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Crops:
    """A stack of equally large crops: `noisy` and `clean` are float32 (N, C, H, W) tensors."""

    noisy: Tensor
    clean: Tensor

    def __len__(self) -> int:
        return len(self.noisy)


class CalibrationCrops(Crops):
    """What scores the units, refits layers and re-estimates statistics."""


class SelectionCrops(Crops):
    """What the refinement measures candidates on."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pairs of any sizes, in a fixed order."""

    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def _crop(self, size: int, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """`count` crops of size x size, spread evenly over the pairs, places drawn from `rng`."""
        noisy, clean = [], []
        for number in range(count):
            pair = self.pairs[number % len(self.pairs)]
            _, height, width = pair.clean.shape
            if min(height, width) < size:
                raise DataError(
                    f"{pair.name} is {width}x{height} pixels, smaller than the {size}x{size} crops asked for",
                    "use larger images, or a smaller crop size",
                )
            top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
            window = (slice(None), slice(top, top + size), slice(left, left + size))
            noisy.append(pair.noisy[window])
            clean.append(pair.clean[window])
        return torch.from_numpy(np.stack(noisy)), torch.from_numpy(np.stack(clean))


class CalibrationImages(ImageSet):
    """Images that scoring and repair may see."""

    def crops(self, size: int, count: int, rng: np.random.Generator) -> CalibrationCrops:
        """`count` crops of size x size pixels, spread evenly over the images."""
        return CalibrationCrops(*self._crop(size, count, rng))


class SelectionImages(ImageSet):
    """Images that the refinement may see."""

    def crops(self, size: int, count: int, rng: np.random.Generator) -> SelectionCrops:
        """`count` crops of size x size pixels, spread evenly over the images."""
        return SelectionCrops(*self._crop(size, count, rng))


class ReportImages(ImageSet):
    """Images that no stage has seen: only verification takes them."""


@dataclass(frozen=True, eq=False)
class Splits:
    """The three roles, with where they come from. No picture and, where scenes are known, no scene is in two of them."""

    source: str
    calibration: CalibrationImages
    selection: SelectionImages
    report: ReportImages

    def __post_init__(self) -> None:
        roles = (self.calibration, self.selection, self.report)
        for key in ("sha256", "scene"):
            seen: dict[str, int] = {}
            for role, images in enumerate(roles):
                for pair in images.pairs:
                    if seen.setdefault(getattr(pair, key), role) != role:
                        raise DataError(f"{pair.name}: the same {key.replace('sha256', 'picture')} is in two splits")
