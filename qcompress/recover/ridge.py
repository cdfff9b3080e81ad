"""Ridge least squares from streamed sums: the memory needed does not depend on how many rows are seen."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NormalEquations"]


class NormalEquations:
    """The weighted sums X'X, X'Y and Y'Y (diagonal) of g independent problems Y = [X, 1] W, in float64."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._gram: Tensor | float = 0.0
        self._moment: Tensor | float = 0.0
        self._energy: Tensor | float = 0.0
        self._sum: Tensor | float = 0.0

    def add(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Take in rows `x` (g, P, D), their targets `y` (g, P, outputs), and how much each row counts, `weight` (P,)."""
        root = weight.double().sqrt()[:, None]
        x = torch.cat((x.double(), x.new_ones((*x.shape[:2], 1), dtype=torch.float64)), 2) * root
        y = y.double() * root
        self.weight += float(weight.sum())
        self._gram = self._gram + x.transpose(1, 2) @ x
        self._moment = self._moment + x.transpose(1, 2) @ y
        self._energy = self._energy + y.square().sum(1)
        self._sum = self._sum + (y * root).sum(1)

    def plus(self, other: NormalEquations) -> NormalEquations:
        """The equations of both sets of rows."""
        result = NormalEquations()
        result.weight = self.weight + other.weight
        for name in ("_gram", "_moment", "_energy", "_sum"):
            setattr(result, name, getattr(self, name) + getattr(other, name))
        return result

    def inputs(self) -> Tensor:
        """(g, D + 1, D + 1) mean of [x, 1]'[x, 1]."""
        return torch.as_tensor(self._gram) / self.weight

    def targets(self) -> Tensor:
        """(g, D + 1, outputs) mean of [x, 1]'y."""
        return torch.as_tensor(self._moment) / self.weight

    def variance(self) -> Tensor:
        """(g, outputs) variance of the targets."""
        mean = torch.as_tensor(self._sum) / self.weight
        return (torch.as_tensor(self._energy) / self.weight - mean.square()).clamp(min=0)

    def residual(self, w: Tensor) -> Tensor:
        """(g, outputs) mean squared residual of `w` (g, D + 1, outputs), whose last row is the bias."""
        cross = w * (torch.as_tensor(self._gram) @ w - 2 * torch.as_tensor(self._moment))
        return ((torch.as_tensor(self._energy) + cross.sum(1)) / self.weight).clamp(min=0)

    def solve(self, start: Tensor, ridge: float) -> Tensor:
        """W (g, D + 1, outputs) that minimises mean |Y - [X, 1] W|^2 + ridge * t * |W - start|^2, t the mean of X^2.

        The bias is not penalised. An input that is always zero keeps the weights of `start`.
        """
        gram = torch.as_tensor(self._gram) / self.weight
        right = torch.as_tensor(self._moment) / self.weight - gram @ start
        size = gram.shape[1] - 1
        scale = gram.diagonal(dim1=1, dim2=2)[:, :size].mean(1)
        penalty = torch.where(scale > 0, ridge * scale, 1.0)[:, None].repeat(1, size + 1)
        penalty[:, size] = 0.0
        step: Tensor = torch.linalg.solve(gram + torch.diag_embed(penalty), right)
        return start + step
