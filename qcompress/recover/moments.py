"""What the consumers see, as second moments: all that a least-squares fit, or its loss without some inputs, needs to know.

With X the rows that a layer sees (`design`) and 1 in the last column, the fit of its outputs from some of the columns is a
matter of X'X alone: no image has to be looked at again, whatever the columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress import seeds
from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError
from qcompress.frozen import answer, frozen
from qcompress.progress import Advance
from qcompress.recover.design import Affine, divisions, is_affine, places_of, rows, weight_matrix

__all__ = ["LARGEST", "MEMORY", "SecondMoments", "affine", "measure_moments"]

LARGEST = 2304
"""Inputs of a row up to which every tap of the kernel is a column of its own: 256 channels under a 3x3 kernel, 42 MB."""

WIDEST = 8192
"""Columns of the widest moments, 512 MiB. A linear layer of more inputs shares them as convolutions do, behind a flatten."""

MEMORY = 2**30
"""Bytes of all moments of a network. Where they would take more, taps share theirs in layers of fewer inputs than `LARGEST`."""


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Of the rows X that a layer of g divisions sees, float64, on the network's device.

    second   (g, D + 1, D + 1) mean of [x, 1]'[x, 1]
    weight   (g, D + 1, outputs / g * shared) the dense weights that the rows meet, the bias in the last row
    taps     columns per input channel: the kernel's size, or 1 where `shared`
    shared   1; or the kernel's size, where rows have the channels at single places only and all taps share their moments
    seen     share of the taps that an output place is made from: below 1 for a transposed convolution with a stride
    flattened  whether the taps are inputs of their own, `shared` neighbours: those of one channel of a map that was flattened
    """

    second: Tensor
    weight: Tensor
    taps: int
    shared: int
    seen: float = 1.0
    flattened: bool = False

    def damped(self, ridge: float) -> Tensor:
        """`second` with `ridge` times the mean of x^2 added to the diagonal, the bias excepted: safe to invert."""
        size = self.second.shape[1] - 1
        scale = self.second.diagonal(dim1=1, dim2=2)[:, :size].mean(1).clamp(min=1e-30)
        added = torch.cat(((ridge * scale)[:, None].expand(-1, size), scale.new_zeros(len(scale), 1)), 1)
        return self.second + torch.diag_embed(added)

    @property
    def channels(self) -> int:
        """Input channels of a division of the layer."""
        return (self.second.shape[1] - 1) // self.taps * (self.shared if self.flattened else 1)

    def columns(self, channels: Iterable[int]) -> list[int]:
        """The columns of a division that belong to these of its input channels, in order."""
        if self.flattened:
            return list(dict.fromkeys(c // self.shared for c in channels))
        return [c * self.taps + tap for c in channels for tap in range(self.taps)]

    def to(self, device: torch.device | str) -> SecondMoments:
        """The same on `device`."""
        return replace(self, second=self.second.to(device), weight=self.weight.to(device))


def affine(model: nn.Module, name: str) -> Affine:
    """The layer called `name`, which is one that can be written as a matrix."""
    module = model.get_submodule(name)
    assert is_affine(module)
    assert isinstance(module, Affine)
    return module


def measure_moments(
    dense: nn.Module,
    layers: Mapping[str, NDArray[np.intp]],
    crops: CalibrationCrops,
    *,
    batch: int = 8,
    positions: int = 40_000,
    largest: int = LARGEST,
    memory: int = MEMORY,
    progress: Advance | None = None,
) -> dict[str, SecondMoments]:
    """The moments of each of `layers`, convolutions or linear, in one pass over `crops`; the network is left as it was.

    `layers` are consumers, with the unit behind each input channel (`Groups.consumers`). About `positions` places are looked at
    per layer, spread over the crops. Layers that are not called, or wider than `WIDEST`, are left out. `progress` is told the
    share done, 0..1. Raises InputError where a layer sees what is not finite.
    """
    per_image = max(1, positions // max(len(crops), 1))
    forms = _forms({name: (affine(dense, name), owners) for name, owners in layers.items()}, largest, memory)
    sums = {name: _Sum(affine(dense, name), name, per_image, form) for name, form in forms.items()}
    with frozen(dense), torch.no_grad(), _watched(dense, sums):
        for start in range(0, len(crops), batch):
            answer(dense, crops.inputs[start : start + batch])
            if progress:
                progress(min(start + batch, len(crops)) / len(crops))
    return {name: one.moments() for name, one in sums.items() if one.count}


@dataclass(frozen=True)
class _Form:
    """How the rows of a layer are written down."""

    kind: Literal["taps", "places", "flattened"]
    columns: int
    taps: int = 1
    shared: int = 1

    @classmethod
    def of(cls, module: Affine, owners: NDArray[np.intp], largest: int) -> _Form:
        """With a column for every tap up to `largest` of them, if it can be otherwise."""
        inputs = len(owners) // divisions(module)
        if isinstance(module, nn.Linear):
            width = 1 if inputs <= WIDEST else _width(owners)
            return cls("taps", inputs) if width == 1 else cls("flattened", inputs // width, shared=width)
        taps = module.weight[0, 0].numel()
        if inputs * taps <= largest or taps == 1:
            return cls("taps", inputs * taps, taps)
        return cls("places", inputs, shared=taps)

    @property
    def bytes(self) -> int:
        """Of the moments of one division."""
        return 8 * (self.columns + 1) ** 2


def _width(owners: NDArray[np.intp]) -> int:
    """Neighbouring inputs that belong to one unit, the same number for every unit: the places of a flattened map; else 1."""
    width = int(np.argmax(owners != owners[0])) or len(owners)
    if len(owners) % width or owners.min() < 0:
        return 1
    return width if (owners.reshape(-1, width) == owners[::width, None]).all() else 1


def _forms(layers: Mapping[str, tuple[Affine, NDArray[np.intp]]], largest: int, memory: int) -> dict[str, _Form]:
    """With a column for every tap where all moments together fit in `memory` then."""
    while True:
        forms = {name: _Form.of(module, owners, largest) for name, (module, owners) in layers.items()}
        forms = {name: form for name, form in forms.items() if form.columns <= WIDEST}
        if largest == 0 or sum(divisions(layers[name][0]) * form.bytes for name, form in forms.items()) <= memory:
            return forms
        largest //= 2


class _Sum:
    """The sums of one layer, as its calls go by."""

    def __init__(self, module: Affine, name: str, per_image: int, form: _Form) -> None:
        self.module, self.name, self.per_image, self.form, self.count = module, name, per_image, form, 0
        self.second: Tensor | float = 0.0

    def see(self, x: Tensor, output: Tensor) -> None:
        """One call: its input and its output."""
        found = self._rows(x, output) if self.form.kind == "taps" else self._places(x)
        wide = found.new_ones(*found.shape[:2], found.shape[2] + 1, dtype=torch.float64)
        wide[:, :, :-1] = found
        self.second = self.second + wide.transpose(1, 2) @ wide
        self.count += found.shape[1]

    def moments(self) -> SecondMoments:
        """The means, and the weights in the same form."""
        second, matrix, form = torch.as_tensor(self.second) / self.count, weight_matrix(self.module), self.form
        if not bool(torch.isfinite(second).all()):
            raise InputError(
                f"layer {self.name}: what it sees of the calibration images is not finite", "look for images it cannot work on"
            )
        if form.kind == "taps":
            return SecondMoments(second, matrix, form.taps, 1)
        spread = matrix[:, :-1].reshape(len(matrix), form.columns, form.shared * matrix.shape[2])
        matrix = torch.cat((spread, spread.new_zeros(len(matrix), 1, spread.shape[2])), 1)
        return SecondMoments(second, matrix, 1, form.shared, _seen(self.module), form.kind == "flattened")

    def _rows(self, x: Tensor, output: Tensor) -> Tensor:
        places = self._drawn(places_of(self.module, output)).to(x.device)
        return rows(self.module, x, output, places)

    def _places(self, x: Tensor) -> Tensor:
        """(g, N * P, inputs / g): the input channels at single places."""
        g = divisions(self.module)
        flat = x.reshape(-1, self.form.columns, self.form.shared) if self.form.kind == "flattened" else x.flatten(2)
        flat = flat[:, :, self._drawn(flat.shape[2]).to(x.device)].transpose(1, 2)
        return flat.reshape(-1, g, flat.shape[2] // g).transpose(0, 1)

    def _drawn(self, total: int) -> Tensor:
        if total <= self.per_image:
            return torch.arange(total)
        generator = torch.Generator().manual_seed(seeds.integer(0, f"moments/{self.name}/{self.count}"))
        return torch.randperm(total, generator=generator)[: self.per_image]


def _seen(module: Affine) -> float:
    """See `SecondMoments.seen`."""
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return 1 / math.prod(module.stride)
    return 1.0


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
