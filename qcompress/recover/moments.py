"""What the consumers see, as second moments: all that a least-squares fit, or its loss without some inputs, needs to know.

With X the rows that a layer sees (`design`) and 1 in the last column, the fit of its outputs from some of the columns is a
matter of X'X alone: no image has to be looked at again, whatever the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcompress import seeds
from qcompress.data.images import CalibrationCrops
from qcompress.frozen import answer, frozen
from qcompress.progress import Advance
from qcompress.recover.design import Affine, divisions, is_affine, places_of, rows, weight_matrix

__all__ = ["LARGEST", "SecondMoments", "affine", "measure_moments"]

LARGEST = 2304
"""Inputs of a row up to which every tap of the kernel is a column of its own: 256 channels under a 3x3 kernel, 42 MB."""


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Of the rows X that a layer of g divisions sees, float64, on the network's device.

    second   (g, D + 1, D + 1) mean of [x, 1]'[x, 1]
    weight   (g, D + 1, outputs / g * shared) the dense weights that the rows meet, the bias in the last row
    taps     columns per input channel: the kernel's size, or 1 where `shared`
    shared   1; or the kernel's size, where rows have the channels at single places only and all taps share their moments
    """

    second: Tensor
    weight: Tensor
    taps: int
    shared: int

    def damped(self, ridge: float) -> Tensor:
        """`second` with `ridge` times the mean of x^2 added to the diagonal, the bias excepted: safe to invert."""
        size = self.second.shape[1] - 1
        scale = self.second.diagonal(dim1=1, dim2=2)[:, :size].mean(1).clamp(min=1e-30)
        added = torch.cat(((ridge * scale)[:, None].expand(-1, size), scale.new_zeros(len(scale), 1)), 1)
        return self.second + torch.diag_embed(added)


def affine(model: nn.Module, name: str) -> Affine:
    """The layer called `name`, which is one that can be written as a matrix."""
    module = model.get_submodule(name)
    assert is_affine(module)
    assert isinstance(module, Affine)
    return module


def measure_moments(
    dense: nn.Module,
    layers: Iterable[str],
    crops: CalibrationCrops,
    *,
    batch: int = 8,
    positions: int = 40_000,
    largest: int = LARGEST,
    progress: Advance | None = None,
) -> dict[str, SecondMoments]:
    """The moments of each of `layers`, convolutions or linear, in one pass over `crops`; the network is left as it was.

    About `positions` places are looked at per layer, spread over the crops. `progress` is told the share done, 0..1.
    """
    names = list(layers)
    per_image = max(1, positions // max(len(crops), 1))
    sums = {name: _Sum(affine(dense, name), name, per_image, largest) for name in names}
    with frozen(dense), torch.no_grad(), _watched(dense, sums):
        for start in range(0, len(crops), batch):
            answer(dense, crops.inputs[start : start + batch])
            if progress:
                progress(min(start + batch, len(crops)) / len(crops))
    return {name: one.moments() for name, one in sums.items() if one.count}


class _Sum:
    """The sums of one layer, as its calls go by."""

    def __init__(self, module: Affine, name: str, per_image: int, largest: int) -> None:
        self.module, self.name, self.per_image, self.count = module, name, per_image, 0
        taps = 1 if isinstance(module, nn.Linear) else module.weight[0, 0].numel()
        inputs = weight_matrix(module).shape[1] - 1
        self.taps, self.shared = (taps, 1) if inputs <= largest or taps == 1 else (1, taps)
        self.second: Tensor | float = 0.0

    def see(self, x: Tensor, output: Tensor) -> None:
        """One call: its input and its output."""
        found = self._places(x) if self.shared > 1 else self._rows(x, output)
        found = torch.cat((found.double(), found.new_ones(*found.shape[:2], 1, dtype=torch.float64)), 2)
        self.second = self.second + found.transpose(1, 2) @ found
        self.count += found.shape[1]

    def moments(self) -> SecondMoments:
        """The means, and the weights in the same form."""
        matrix = weight_matrix(self.module)
        if self.shared > 1:
            g, size, outputs = matrix.shape[0], (matrix.shape[1] - 1) // self.shared, matrix.shape[2]
            spread = matrix[:, :-1].reshape(g, size, self.shared * outputs)
            matrix = torch.cat((spread, spread.new_zeros(g, 1, spread.shape[2])), 1)
        return SecondMoments(torch.as_tensor(self.second) / self.count, matrix, self.taps, self.shared)

    def _rows(self, x: Tensor, output: Tensor) -> Tensor:
        places = self._drawn(places_of(self.module, output)).to(x.device)
        return rows(self.module, x, output, places)

    def _places(self, x: Tensor) -> Tensor:
        """(g, N * P, inputs / g): the input channels at single places."""
        g = divisions(self.module)
        flat = x.flatten(2)
        flat = flat[:, :, self._drawn(flat.shape[2]).to(x.device)].transpose(1, 2)
        return flat.reshape(-1, g, flat.shape[2] // g).transpose(0, 1)

    def _drawn(self, total: int) -> Tensor:
        if total <= self.per_image:
            return torch.arange(total)
        generator = torch.Generator().manual_seed(seeds.integer(0, f"moments/{self.name}/{self.count}"))
        return torch.randperm(total, generator=generator)[: self.per_image]


@contextmanager
def _watched(model: nn.Module, sums: dict[str, _Sum]) -> Iterator[None]:
    handles = []

    def watch(one: _Sum) -> None:
        handles.append(one.module.register_forward_hook(lambda _, args, output: one.see(args[0], output)))

    try:
        for one in sums.values():
            watch(one)
        yield
    finally:
        for handle in handles:
            handle.remove()
