"""From arrays to pictures for people."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcompress.data.reading import Form

__all__ = ["colours", "png", "restored"]

Bytes = NDArray[np.uint8]


def restored(image: NDArray[np.float32], form: Form) -> NDArray[np.float32]:
    """An input (C, H, W) as it was before it was normalised."""
    std, mean = (np.array(v or (d,), np.float32).reshape(-1, 1, 1) for v, d in ((form.std, 1.0), (form.mean, 0.0)))
    return np.asarray(image * std + mean, np.float32)


def colours(image: NDArray[np.float32]) -> Bytes:
    """(H, W, 3) of an image (1, H, W) or (3, H, W) in 0..1."""
    levels = np.round(np.nan_to_num(image).clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0))


def png(pixels: Bytes) -> bytes:
    """The file of a picture (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
