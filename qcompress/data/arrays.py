"""Images in an .npz file: pairs, images with a class each, or images with a mask each."""

from __future__ import annotations

import math
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompress.archives import member_names
from qcompress.data.items import Images, Item, Kind, Source
from qcompress.errors import DataError

__all__ = ["recognise"]

_NAMES = (("x", "y"), ("noisy", "clean"), ("input", "target"), ("lr", "hr"))
_MOST_BYTES = 2**32
_MOST_GROWTH = 100  # bytes of arrays per byte of the file; photographs shrink by half
_MOST_IMAGES, _SPARE_IMAGES = 1 / 16, 10_000  # per byte of the file, and anyway
_HINT = "save x and y (or noisy and clean, lr and hr) with numpy.savez: images first, and as many targets"


def recognise(path: Path) -> Source:
    """What the .npz file at `path` holds.

    Images are x, noisy, input or lr: (N, H, W, C) or (N, H, W) uint8, or (N, C, H, W) floats, taken as they are. Targets are y,
    clean, target or hr: images of the same kind, (N,) integers for classes, or (N, H, W) integers for masks (of images of four
    axes, or of floats). `scene` (N,), where it is there, says which images belong together.
    The arrays are read whole, up to 4 GiB of them. Raises DataError for anything else; nothing is unpickled.
    """
    arrays = _read(path)
    names = next((pair for pair in _NAMES if set(pair) <= arrays.keys()), None)
    if names is None:
        raise DataError(f"{path}: holds no pair of x and y, noisy and clean, input and target, or lr and hr", _HINT)
    inputs, targets = arrays[names[0]], arrays[names[1]]
    content = _content(inputs, targets)
    if inputs.ndim not in (3, 4) or not targets.ndim or len(inputs) != len(targets) or not (inputs.nbytes and targets.nbytes):
        raise DataError(f"{path}: {names[0]} is {inputs.shape}, {names[1]} {targets.shape}; expected as many of both", _HINT)
    _check_count(len(inputs), path)
    scenes = arrays.get("scene", np.arange(len(inputs)))
    if scenes.shape != inputs.shape[:1]:
        raise DataError(f"{path}: scene is {scenes.shape}, expected {inputs.shape[:1]}, one for each image")
    strata = targets if content == "classes" else np.zeros(len(inputs), int)
    digits = len(str(len(inputs) - 1))
    items = tuple(
        Item(f"{number:0{digits}}", str(scenes[number]), partial(_item, inputs, targets, number, content), str(strata[number]))
        for number in range(len(inputs))
    )
    kinds = {"classes": "labelled images", "masks": "images and masks", "pairs": f"pairs {names[0]} and {names[1]}"}
    return Source(f"{kinds[content]} in an .npz file", content, items)


def _check_count(images: int, path: Path) -> None:
    """An entry for each image takes some 500 bytes: images of one pixel, compressed, would make gigabytes of them."""
    size = path.stat().st_size
    if images > _MOST_IMAGES * size + _SPARE_IMAGES:
        raise DataError(f"{path}: {images:,} images in {size:,} bytes, which no photographs are", "give larger images")


def _content(inputs: NDArray[Any], targets: NDArray[Any]) -> Kind:
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        return "classes"
    integers = targets.dtype.kind in "iu" and targets.ndim == 3
    return "masks" if integers and (inputs.ndim == 4 or inputs.dtype.kind == "f") else "pairs"


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            member_names(file, most_growth=_MOST_GROWTH)
            file.seek(0)
            _check_headers(file, path)
        with np.load(path, allow_pickle=False) as content:
            known = {name for pair in _NAMES for name in pair} | {"scene"}
            return {name: content[name] for name in content.files if name in known}
    except DataError:
        raise
    except Exception as error:  # what the parsers raise over corrupt bytes is open-ended
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable .npz file ({reason})", _HINT) from error


def _check_headers(file: Any, path: Path) -> None:
    """Refuse arrays that claim more than their bytes, before numpy makes room for them, and more than is safe in all."""
    total = 0
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = reader(stream)
            size = math.prod(shape) * dtype.itemsize
            total += size
            if dtype.hasobject or size > member.file_size:
                raise DataError(f"{path}: {member.filename} is {dtype} {shape}, more than its bytes or no plain numbers", _HINT)
    if total > _MOST_BYTES:
        raise DataError(f"{path}: {total:,} bytes of arrays, expected at most {_MOST_BYTES:,}", "give a part of the images")


def _item(inputs: NDArray[Any], targets: NDArray[Any], number: int, content: Kind) -> Images:
    image = _image(inputs, number)
    if content == "pairs":
        return image, _image(targets, number)
    return image, targets[number].astype(np.int64)


def _image(images: NDArray[Any], number: int) -> NDArray[np.float32]:
    """One image as (C, H, W) float32; integers 0..255 become 0..1."""
    image = images[number]
    if images.dtype == np.uint8:
        image = image[..., np.newaxis] if image.ndim == 2 else image
        channels_last = image.shape[2] in (1, 3)
        return np.ascontiguousarray((image.transpose(2, 0, 1) if channels_last else image).astype(np.float32) / 255)
    if images.dtype.kind != "f":
        raise DataError(f"images of type {images.dtype}, expected uint8 or floats", _HINT)
    with np.errstate(over="ignore"):
        image = np.ascontiguousarray(image[np.newaxis] if image.ndim == 2 else image, np.float32)
    if not np.isfinite(image).all():  # also what a float64 holds and a float32 cannot
        raise DataError(f"image {number} holds NaN or infinity", "take it out")
    return image
