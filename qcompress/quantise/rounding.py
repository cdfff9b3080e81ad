"""Rounding that compensates: what one weight loses by being put on its grid, the weights after it make up for.

Column by column of the input, the error is carried to the columns that are not rounded yet, as the second moments of the inputs
say (optimal brain quantisation: Frantar and Alistarh, NeurIPS 2022; in this order for all outputs at once, by a Cholesky
factor: GPTQ, Frantar et al., ICLR 2023, equations 2 to 4). Columns of much energy go first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompress.quantise.grids import on_grid
from qcompress.recover.moments import SecondMoments

__all__ = ["DAMPING", "centred", "compensated", "compensated_by"]

DAMPING = 1e-2
"""Times the mean variance of the inputs."""

_TINY = 1e-30
_BLOCK = 128  # columns whose errors are carried to all others at once


def compensated(matrix: Tensor, scale: Tensor, width: str, second: Tensor) -> Tensor:
    """(g, D, outputs) points of the grid near `matrix`, of small error in what the layer computes.

    `scale` broadcasts to the matrix; `second` (g, D, D) is positive definite: the second moments of the inputs, damped.
    """
    order = second.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    factor = _factor(second.gather(1, order[:, :, None].expand_as(second)).gather(2, order[:, None].expand_as(second)))
    places = order[:, :, None].expand_as(matrix)
    left, found = matrix.gather(1, places), torch.empty_like(matrix)
    for start in range(0, matrix.shape[1], _BLOCK):
        stop = min(start + _BLOCK, matrix.shape[1])
        errors = left.new_empty(left.shape[0], stop - start, left.shape[2])
        for column in range(start, stop):
            found[:, column] = on_grid(left[:, column], scale[:, 0], width)
            errors[:, column - start] = (left[:, column] - found[:, column]) / factor[:, column, column, None]
            across = factor[:, column, column + 1 : stop, None]
            left[:, column + 1 : stop] -= across * errors[:, column - start, None]
        left[:, stop:] -= factor[:, start:stop, stop:].mT @ errors
    return torch.empty_like(matrix).scatter_(1, places, found)


def _factor(second: Tensor) -> Tensor:
    """(g, D, D) upper triangular U with U'U the inverse of `second`."""
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(second))).mT
    return factor


def compensated_by(found: SecondMoments, matrix: Tensor, scale: Tensor, width: str) -> Tensor:
    """The same from the moments of a layer: the bias is taken to be set afterwards to what makes up for the mean error.

    Where the taps of the kernel share their moments, errors are carried between the channels under the same tap only.
    """
    second = centred(found.second)
    if found.shared == 1:
        return compensated(matrix, scale, width, second)
    g, rows, outputs = matrix.shape
    by_tap = matrix.reshape(g, -1, found.shared, outputs).transpose(1, 2)  # (g, taps, channels, outputs)
    taps = [compensated(by_tap[:, tap], scale, width, second) for tap in range(found.shared)]
    return torch.stack(taps, 2).reshape(g, rows, outputs)


def centred(second: Tensor, damping: float = DAMPING) -> Tensor:
    """(g, D, D) covariances from the moments (g, D + 1, D + 1) of [x, 1], damped by a share of their mean variance."""
    means = second[:, :-1, -1]
    found = second[:, :-1, :-1] - means[:, :, None] * means[:, None]
    variances = found.diagonal(dim1=1, dim2=2)
    added = (damping * variances.mean(1)).clamp(min=_TINY)
    return found + torch.diag_embed(added[:, None].expand_as(variances))
