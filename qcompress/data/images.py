"""Pairs of images and the three roles they can have.

A role is a type: what scores (`Calibration*`), what chooses (`Selection*`) and what reports (`Report*`) cannot be passed for
one another without a type checker, and `Splits`, seeing the pixels' hashes, noticing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

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

    def to(self, device: torch.device | str) -> Self:
        """The same crops on `device`."""
        return type(self)(self.noisy.to(device), self.clean.to(device))


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

    @property
    def sha256(self) -> str:
        """Hash over the names and the clean pixels of all pairs, in their order."""
        return hashlib.sha256("".join(f"{pair.name}\n{pair.sha256}\n" for pair in self.pairs).encode()).hexdigest()

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
        for key, what in (("sha256", "the same picture"), ("scene", "one scene")):
            seen: dict[str, tuple[int, Pair]] = {}
            for role, images in enumerate((self.calibration, self.selection, self.report)):
                for pair in images.pairs:
                    other, first = seen.setdefault(getattr(pair, key), (role, pair))
                    if other != role:
                        raise DataError(
                            f"{first.name} and {pair.name} show {what}, but are in two splits", "take one of the two out"
                        )

    def summary(self) -> dict[str, Any]:
        """Who saw which images, as plain data: `source`, and for each role `images`, `scenes`, `names` and `sha256`."""
        roles = {"calibration": self.calibration, "selection": self.selection, "report": self.report}
        return {"source": self.source} | {
            role: {
                "images": len(images),
                "scenes": len({pair.scene for pair in images.pairs}),
                "names": [pair.name for pair in images.pairs],
                "sha256": images.sha256,
            }
            for role, images in roles.items()
        }
