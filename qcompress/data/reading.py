"""From an item to a pair that the network can take: channels, size, noise, scale and normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcompress import seeds
from qcompress.data.files import convert_channels
from qcompress.data.images import Pair
from qcompress.data.items import Item
from qcompress.data.noise import Noise
from qcompress.errors import DataError, UsageError

__all__ = ["MAX_PIXELS", "MAX_SIDE", "Form", "Reader", "resized"]

MAX_SIDE = 1024
"""Longest side, in pixels, that is kept of an image: its centre."""

MAX_PIXELS = 2**24
"""Pixels that a role keeps, 400 MB in RGB: with more than 16 images, less than MAX_SIDE is kept of each."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """What a network needs of its images, beyond channels and stride.

    scale      side of its output over side of its input
    size       side to which images with a class are resized (the shorter one) and cropped about the centre; None: as they are
    mean, std  what is subtracted from each channel of labelled images (0..1), and what they are then divided by
    """

    scale: int = 1
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            raise UsageError(f"std is {self.std}, expected numbers above 0")
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            raise UsageError(f"mean is {self.mean}, expected finite numbers")

    def normalised(self, image: Floats, name: str) -> Floats:
        """(image - mean) / std, channel by channel."""
        for values, what in ((self.mean, "mean"), (self.std, "std")):
            if values is not None and len(values) not in (1, len(image)):
                raise UsageError(f"{what} has {len(values)} numbers, {name} {len(image)} channels", "give one for each channel")
        mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (self.mean or (0.0,), self.std or (1.0,)))
        return np.asarray((image - mean) / std, np.float32)


@dataclass(frozen=True)
class Reader:
    """Reads items as pairs that the network can take."""

    noise: Noise | None
    channels: int
    stride: int
    seed: int
    form: Form

    def read(self, items: Sequence[Item]) -> list[Pair]:
        """The pairs of one role, MAX_PIXELS of them at most."""
        side = min(MAX_SIDE, math.isqrt(MAX_PIXELS // len(items)))
        pairs: list[Pair] = []
        for item in items:
            pairs.append(self._read_one(item, side))
            if pairs[0].target.ndim == 0 and len(pairs) * pairs[0].input[0].size >= MAX_PIXELS:
                break  # images with a class are not cropped: fewer of them are kept
        return pairs

    def first(self, item: Item) -> Pair:
        """One item alone, to see what its size is."""
        return self._read_one(item, MAX_SIDE)

    def _read_one(self, item: Item, side: int) -> Pair:
        source, target = item.read()
        if source is not None and target.dtype.kind in "iu":
            return self._labelled(item, source, target, side)
        if self.form.mean or self.form.std:
            raise UsageError("--mean and --std are for labelled images", "leave them out: restored images are 0..1")
        scale = _scale(item.name, source, target, self.form.scale)
        window = _window(item.name, target.shape, side, self.stride, scale)
        clean = convert_channels(target[window], self.channels, item.name)
        if source is not None:
            rows, columns = (slice(cut.start // scale, cut.stop // scale) for cut in window[1:])
            given = convert_channels(source[:, rows, columns], self.channels, item.name)
        else:
            given, clean = self._degraded(item, clean)
        return Pair(item.name, item.scene, np.ascontiguousarray(given), np.ascontiguousarray(clean))

    def _degraded(self, item: Item, clean: Floats) -> tuple[Floats, Floats]:
        """(input, target): reduced by the scale, 8 bit as files are, and noise added."""
        given = clean
        if self.form.scale > 1:
            height, width = (length // self.form.scale for length in clean.shape[1:])
            given = np.round(resized(clean, height, width) * 255).astype(np.float32) / np.float32(255)
        if self.noise is None:
            return given, clean
        noisy, quiet = self.noise.apply(given, seeds.stream(self.seed, f"noise/{item.name}"))
        return noisy, quiet if self.form.scale == 1 else clean

    def _labelled(self, item: Item, image: Floats, target: NDArray[Any], side: int) -> Pair:
        image = convert_channels(image, self.channels, item.name)
        if target.ndim == 0:
            image = image if self.form.size is None else _centre(image, self.form.size)
        else:
            if image.shape[1:] != target.shape:
                raise DataError(f"{item.name}: the image is {image.shape[1:]}, its mask {target.shape}", "crop both alike")
            window = _window(item.name, image.shape, side, self.stride)
            image, target = image[window], np.ascontiguousarray(target[window[1:]])
        image = np.ascontiguousarray(self.form.normalised(image, item.name))
        return Pair(item.name, item.scene, image, np.asarray(target, np.int64))


def resized(image: Floats, height: int, width: int) -> Floats:
    """(C, H, W) by bicubic interpolation (a = -0.5, with antialiasing, as MATLAB's imresize), clipped to 0..1."""
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), Image.Resampling.BICUBIC))
        for plane in image
    ]
    return np.asarray(np.clip(np.stack(planes), 0, 1), np.float32)


def _centre(image: Floats, size: int) -> Floats:
    """The centre of an image whose shorter side was brought to `size`."""
    _, height, width = image.shape
    share = size / min(height, width)
    rows, columns = max(size, round(height * share)), max(size, round(width * share))
    image = image if (rows, columns) == (height, width) else resized(image, rows, columns)
    top, left = (rows - size) // 2, (columns - size) // 2
    return image[:, top : top + size, left : left + size]


def _scale(name: str, source: Floats | None, target: NDArray[Any], scale: int) -> int:
    """How many times larger the target is; `scale` where there is no input yet."""
    if source is None:
        return scale
    found: int = target.shape[1] // max(source.shape[1], 1)
    if found < 1 or target.shape[1:] != tuple(length * found for length in source.shape[1:]):
        sizes = [f"{image.shape[2]}x{image.shape[1]}" for image in (source, target)]
        raise DataError(
            f"{name}: the input is {sizes[0]} pixels, the target {sizes[1]}; expected one whole multiple",
            "crop the pair to one size",
        )
    return found


def _window(name: str, shape: Sequence[int], side: int, stride: int, scale: int = 1) -> tuple[slice, slice, slice]:
    """The centre of an image: as large as `side` allows, in multiples of stride times scale."""
    unit, cuts = stride * scale, []
    for length in shape[1:]:
        kept = min(length, max(side, unit)) // unit * unit
        if kept == 0:
            raise DataError(
                f"{name} is {shape[2]}x{shape[1]} pixels, expected at least {unit}x{unit} for this network",
                "use larger images",
            )
        start = (length - kept) // 2 // scale * scale  # the input has a pixel there
        cuts.append(slice(start, start + kept))
    return slice(None), cuts[0], cuts[1]
