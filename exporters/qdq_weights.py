"""Weights on the grids of their widths: integers, and a scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import UsageError
from qcompress.exporters.qdq_layers import Layer

__all__ = ["INTEGERS", "Grid", "to_grid"]

INTEGERS = {"int8": (-127, 127), "int4": (-8, 7)}
"""Least and largest integer of a weight, by width: int8 is symmetric, int4 uses all sixteen."""


@dataclass(frozen=True, eq=False)
class Grid:
    """`integers` int8, of the layer's `stored` shape, and `scales` float32 (out,); their product is the weight."""

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]


def to_grid(weight: NDArray[np.float32], layer: Layer, width: str, scales: NDArray[np.float32] | None) -> Grid:
    """The nearest point of the grid that `scales` (out,) describe; without them, of the one that just holds all weights.

    Raises UsageError for scales of another shape, or that are not finite and positive.
    """
    stored = weight.reshape(layer.stored)
    low, high = INTEGERS[width]
    if scales is None:
        axes = tuple(axis for axis, size in enumerate(layer.scale_shape) if size == 1)
        most, least = stored.max(axes).ravel(), stored.min(axes).ravel()
        scales = np.maximum(np.maximum(most / high, least / low), 0).astype(np.float32)
        scales[scales < np.finfo(np.float32).tiny] = 1.0  # a channel of zeros is on every grid
    else:
        scales = np.asarray(scales, np.float32)
        if scales.shape != (layer.channels,) or not (np.isfinite(scales).all() and (scales > 0).all()):
            raise UsageError(
                f"scales of {layer.name}: shape {scales.shape}, expected one finite scale above 0 for each of "
                f"{layer.channels} output channels"
            )
    integers = np.rint(stored / scales.reshape(layer.scale_shape)).clip(low, high).astype(np.int8)
    return Grid(integers, scales)
