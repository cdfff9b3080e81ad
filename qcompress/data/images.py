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

from qcompress.data.items import Kind
from qcompress.data.tasks import Task, task_of
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
    "TrainingCrops",
    "TrainingImages",
]


@dataclass(frozen=True, eq=False)
class Pair:
    """One input of the network and what its output is judged by, the target.

    input   float32 (C, H, W): a degraded image, or one to label; 0..1 unless it was normalised or noise left that range
    target  float32 (C, H * s, W * s) in 0..1, s a whole number: the image to restore (s is the scale of super-resolution);
            int64 (H, W): the class of every pixel, 255 where it does not count; or int64 (): the class of the image
    """

    name: str
    scene: str
    input: NDArray[np.float32]
    target: NDArray[Any]

    def __post_init__(self) -> None:
        if self.input.ndim != 3 or self.input.size == 0 or not self._fits():
            raise DataError(
                f"{self.name}: the input is {self.input.shape}, the target {self.target.shape}; expected (C, H, W), and "
                f"an image of as many channels whose sides are one whole multiple, a mask (H, W), or a label",
                "crop or resize the pair to one size",
            )

    def _fits(self) -> bool:
        if self.is_labelled:
            return self.target.ndim == 0 or self.target.shape == self.input.shape[1:]
        if self.target.ndim != 3 or len(self.target) != len(self.input):
            return False
        return self.scale > 0 and self.target.shape[1:] == tuple(side * self.scale for side in self.input.shape[1:])

    @property
    def is_labelled(self) -> bool:
        """Whether the target is classes, of the image or of its pixels."""
        return self.target.dtype.kind in "iu"

    @property
    def scale(self) -> int:
        """Side of the target over side of the input; 1 for labels."""
        return 1 if self.is_labelled else int(self.target.shape[1] // self.input.shape[1])

    @cached_property
    def sha256(self) -> str:
        """Hash of the picture: the target's pixels (8 bit), or the input's where the target is labels.

        Two pairs with the same hash show the same picture.
        """
        pixels = self.input if self.is_labelled else np.round(np.clip(self.target, 0, 1) * 255).astype(np.uint8)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

    def part(self, top: int, left: int, height: int, width: int) -> Pair:
        """The window of the input that begins at (top, left), with what belongs to it of the target."""
        given = self.input[:, top : top + height, left : left + width]
        target, s = self.target, self.scale
        if target.ndim:
            target = np.ascontiguousarray(target[..., top * s : (top + height) * s, left * s : (left + width) * s])
        return Pair(self.name, self.scene, np.ascontiguousarray(given), target)


@dataclass(frozen=True, eq=False)
class Crops:
    """A stack of equally large inputs (N, C, H, W), float32, and their targets: see `Pair` for the shape of each."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device | str) -> Self:
        """The same crops on `device`."""
        return type(self)(self.inputs.to(device), self.targets.to(device))


class CalibrationCrops(Crops):
    """What scores the units, refits layers and re-estimates statistics."""


class SelectionCrops(Crops):
    """What the refinement measures candidates on."""


class TrainingCrops(Crops):
    """What the weights are trained on."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pairs of any sizes, in a fixed order."""

    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def task(self) -> Task:
        """What a network that fits these pairs is for. There must be at least one."""
        first = self.pairs[0]
        content: Kind = "pairs" if not first.is_labelled else "masks" if first.target.ndim else "classes"
        return task_of(content, first.scale)

    @property
    def sha256(self) -> str:
        """Hash over the names and the pictures of all pairs, and their labels where they have some, in their order."""
        texts = (f"{pair.name}\n{pair.sha256}\n" for pair in self.pairs)
        labels = (pair.target.tobytes() for pair in self.pairs if pair.is_labelled)
        return hashlib.sha256("".join(texts).encode() + b"".join(labels)).hexdigest()

    @property
    def contents(self) -> str:
        """Hash over the names, inputs and targets of all pairs, number for number; `sha256` is of the pictures alone."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            parts = [
                f"{part.shape} {part.dtype.str} {hashlib.sha256(part.tobytes()).hexdigest()}"
                for part in (pair.input, pair.target)
            ]
            digest.update(repr((pair.name, parts)).encode())
        return digest.hexdigest()

    def _crop(self, size: int, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """`count` crops of size x size of the input, spread evenly over the pairs, places drawn from `rng`.

        An image with a label of its own is taken whole, and once.
        """
        whole = self.pairs[0].target.ndim == 0
        parts = []
        for number in range(min(count, len(self)) if whole else count):
            pair = self.pairs[number % len(self.pairs)]
            parts.append(pair if whole else self._part(pair, size, rng))
        shapes = {part.input.shape for part in parts}
        if len(shapes) > 1:
            raise DataError(f"images of several sizes: {sorted(shapes)[:3]}, expected one", "give --size, to resize them")
        inputs, targets = np.stack([part.input for part in parts]), np.stack([part.target for part in parts])
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    @staticmethod
    def _part(pair: Pair, size: int, rng: np.random.Generator) -> Pair:
        _, height, width = pair.input.shape
        if min(height, width) < size:
            raise DataError(
                f"{pair.name} is {width}x{height} pixels, smaller than the {size}x{size} crops asked for",
                "use larger images, or a smaller crop size",
            )
        return pair.part(int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1)), size, size)


class CalibrationImages(ImageSet):
    """Images that scoring and repair may see."""

    def crops(self, size: int, count: int, rng: np.random.Generator) -> CalibrationCrops:
        """`count` crops of size x size pixels, spread evenly over the images."""
        return CalibrationCrops(*self._crop(size, count, rng))


class TrainingImages(ImageSet):
    """Images that fine-tuning may see, and nothing else does."""


class SelectionImages(ImageSet):
    """Images that the refinement may see."""

    def crops(self, size: int, count: int, rng: np.random.Generator) -> SelectionCrops:
        """`count` crops of size x size pixels, spread evenly over the images."""
        return SelectionCrops(*self._crop(size, count, rng))


class ReportImages(ImageSet):
    """Images that no stage has seen: only verification takes them."""


@dataclass(frozen=True, eq=False)
class Splits:
    """The three roles, with where they come from. No picture and, where scenes are known, no scene is in two of them.

    `classes` are the names of classes in the order of their numbers, () where they have none.
    """

    source: str
    calibration: CalibrationImages
    selection: SelectionImages
    report: ReportImages
    classes: tuple[str, ...] = ()

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

    def check_training(self, images: TrainingImages) -> None:
        """Raises DataError where one of `images` shows a picture that selects or reports."""
        kept = {pair.sha256: pair for role in (self.selection, self.report) for pair in role.pairs}
        for pair in images.pairs:
            other = kept.get(pair.sha256)
            if other is not None:
                raise DataError(
                    f"{pair.name} is to be trained on, but shows the same picture as {other.name}, which selects or reports",
                    "take it out of the training folder",
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
