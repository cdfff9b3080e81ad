"""Rounding that compensates: what one weight loses by being put on its grid, the weights after it make up for.

Column by column of the input, the error is carried to the columns that are not rounded yet, as the second moments of the inputs
say (optimal brain quantisation: Frantar and Alistarh, NeurIPS 2022; in this order for all outputs at once, by a Cholesky factor:
GPTQ, Frantar et al., ICLR 2023, equations 2 to 4). Columns of much energy go first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompress.quantise.grids import on_grid

__all__ = ["compensated"]

_BLOCK = 128  # columns whose errors are carried to all others at once


def compensated(matrix: Tensor, scale: Tensor, width: str, second: Tensor) -> Tensor:
    """(g, D, outputs) points of the grid near `matrix`, of small error in what the layer computes.

    `scale` broadcasts to the matrix; `second` (g, D, D) is positive definite: the second moments of the inputs, damped.
    """
    order = second.diagonal(dim1=1, dim2=2).argsort(1, descending=True, stable=True)
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
