"""What one step of the training sees: random windows of images, turned and mirrored. A function of the seed and the step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.data.images import CalibrationImages, Pair, TrainingCrops, TrainingImages
from qcompress.data.noise import Noise

__all__ = ["Drawer"]

_SHIFT = 8
"""An image with a class is moved by up to one in so many of its pixels."""


@dataclass(frozen=True, eq=False)
class Drawer:
    """Batches of `count` crops, `crop` pixels a side (None: whole images with a class each).

    noise  drawn anew for the clean target of every crop, where it is known and leaves the target as it is; None: the input
           that came with the target

    What restores images does so in any of eight positions. Images with classes are mirrored only, and moved a little: what is
    below may tell what it is.
    """

    images: CalibrationImages | TrainingImages
    count: int
    crop: int | None
    noise: Noise | None
    seed: int

    def __call__(self, step: int) -> TrainingCrops:
        """The crops of one step, on the CPU. They depend on nothing but the step and the fields."""
        rng = seeds.stream(self.seed, f"fine-tuning/{step}")
        parts = [self._part(self._drawn(rng), rng) for _ in range(self.count)]
        inputs, targets = np.stack([part.input for part in parts]), np.stack([part.target for part in parts])
        return TrainingCrops(torch.from_numpy(inputs), torch.from_numpy(targets))

    @property
    def epoch(self) -> float:
        """Steps that show as many pixels as all images have, or as many images with a class as there are."""
        if self.crop is None:
            return len(self.images) / self.count
        return float(self._ends[-1]) / (self.count * self.crop**2)

    def _drawn(self, rng: np.random.Generator) -> Pair:
        """An image, each with the weight of its area where windows are taken."""
        pairs = self.images.pairs
        if self.crop is None:
            return pairs[int(rng.integers(len(pairs)))]
        place = int(np.searchsorted(self._ends, rng.integers(int(self._ends[-1])), side="right"))
        return pairs[place]

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Pixels of the images up to each, itself included."""
        return np.cumsum([pair.input[0].size for pair in self.images.pairs], dtype=np.int64)

    def _part(self, pair: Pair, rng: np.random.Generator) -> Pair:
        if self.crop is None:
            return _moved(pair, rng)
        _, height, width = pair.input.shape
        top, left = (int(rng.integers(side - self.crop + 1)) for side in (height, width))
        part = pair.part(top, left, self.crop, self.crop)
        if self.noise is not None:
            part = Pair(part.name, part.scene, self.noise.apply(part.target, rng)[0], part.target)
        return _turned(part, 0 if part.is_labelled else int(rng.integers(4)), bool(rng.integers(2)))


def _turned(pair: Pair, quarters: int, mirrored: bool) -> Pair:
    """`pair` turned by so many quarters, then mirrored."""
    both = (np.rot90(image, quarters, (-2, -1)) for image in (pair.input, pair.target))
    given, target = (np.ascontiguousarray(image[..., ::-1] if mirrored else image) for image in both)
    return Pair(pair.name, pair.scene, given, target)


def _moved(pair: Pair, rng: np.random.Generator) -> Pair:
    """`pair`, of which the target is a class, moved up, down and sideways, its border repeated, and mirrored or not."""
    _, height, width = pair.input.shape
    rows, columns = (
        np.clip(np.arange(side) + int(rng.integers(-(side // _SHIFT), side // _SHIFT + 1)), 0, side - 1)
        for side in (height, width)
    )
    columns = columns[::-1] if rng.integers(2) else columns
    return Pair(pair.name, pair.scene, np.ascontiguousarray(pair.input[:, rows][:, :, columns]), pair.target)
