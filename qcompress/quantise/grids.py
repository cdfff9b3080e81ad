"""The grids that weights lie on: symmetric, with a scale for every output channel, set by its largest weight.

Weights are in the form of `recover.design`: (g, D, outputs / g), without the bias. A file has one scale for every place along
an axis of the weight. Of a transposed convolution that axis has the outputs of one division, so its divisions share their
scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from qcompress.recover.design import Affine

__all__ = ["LEVELS", "along_outputs", "halved", "largest", "on_grid", "per_column"]

LEVELS: Mapping[str, tuple[int, int]] = {"int8": (-127, 127), "int4": (-8, 7)}
"""The least and the largest whole number of a width that is a grid."""

_Transposed: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def largest(module: Affine, matrix: Tensor, width: str) -> Tensor:
    """(g, 1, outputs / g) float64 scales at which the largest weight of every output is the last level.

    `matrix` (g, D, outputs / g) are weights that `module` could have.
    """
    return _representable(_shared(module, matrix.abs().amax(1, keepdim=True)) / LEVELS[width][1])


def on_grid(values: Tensor, scale: Tensor, width: str) -> Tensor:
    """The points of the grid nearest to `values`, which `scale` broadcasts to."""
    low, high = LEVELS[width]
    return (values / scale).round().clamp(low, high) * scale


def halved(values: Tensor) -> Tensor:
    """`values` as float16 holds them, saturated, in their own type."""
    limit = torch.finfo(torch.float16).max
    return values.clamp(-limit, limit).half().to(values)


def along_outputs(module: Affine, scale: Tensor) -> Tensor:
    """(outputs,) float32, the scales (g, 1, outputs / g) along the weight's output axis: of one division, if transposed."""
    return (scale[0, 0] if isinstance(module, _Transposed) else scale.flatten()).float()


def per_column(module: Affine, scale: Tensor) -> Tensor:
    """The inverse of `along_outputs`, in float64."""
    g = 1 if isinstance(module, nn.Linear) else module.groups
    if isinstance(module, _Transposed):
        return scale.double().reshape(1, 1, -1).repeat(g, 1, 1)
    return scale.double().reshape(g, 1, -1)


def _shared(module: Affine, values: Tensor) -> Tensor:
    """`values` (g, 1, outputs / g), of all divisions the largest where these share their scales."""
    if not isinstance(module, _Transposed) or len(values) == 1:
        return values
    return values.amax(0, keepdim=True).expand_as(values)


def _representable(scale: Tensor) -> Tensor:
    """`scale` as float32 holds it, 1 where there is nothing to scale."""
    scale = scale.float().double()
    return torch.where(scale > 0, scale, 1.0)
