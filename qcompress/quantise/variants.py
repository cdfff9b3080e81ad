"""Layers with another width, each by itself: copies of a network's layers, and what their errors are predicted to cost.

The prediction is the Gauss-Newton loss, in squares of the network's output: the covariance of the errors at a layer's outputs
weighted by what they are worth there (`reconstruction.sensitivity`), the unit of the losses that `reconstruction` predicts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops
from qcompress.frozen import answer, frozen
from qcompress.quantise.exchanging import Exchange
from qcompress.quantise.grids import LEVELS, halved, largest, on_grid
from qcompress.quantise.ranges import Ranges
from qcompress.quantise.rounding import compensated_by
from qcompress.quantise.simulate import InEightBits
from qcompress.reconstruction.sensitivity import measure_sensitivity
from qcompress.recover.design import Affine, divisions, output_rows, places_of, set_matrix, weight_matrix
from qcompress.recover.moments import SecondMoments, affine
from qcompress.recover.passes import after

__all__ = ["Key", "Variant", "predict"]

Key: TypeAlias = tuple[str, str]
"""A layer and its width."""

_COARSE = ("int4",)  # of int8 it is the rounded input that costs: weights to nearest do


@dataclass(eq=False)
class Variant:
    """A layer with another width: a copy of it, and what rounds its input."""

    module: Affine
    levels: InEightBits | None

    @classmethod
    def of(cls, model: nn.Module, name: str, width: str, ranges: Ranges, moments: SecondMoments | None = None) -> Variant:
        """Layer `name`; the weights rounded with its moments where there are any."""
        module = affine(model, name)
        matrix = weight_matrix(module)
        weights = matrix[:, :-1]
        if width not in LEVELS:
            weights = halved(weights)
        else:
            scale = largest(module, weights, width)
            if moments is not None and width in _COARSE:
                weights = compensated_by(moments, weights, scale, width)
            else:
                weights = on_grid(weights, scale, width)
        found = copy.deepcopy(module).requires_grad_(False)
        set_matrix(found, torch.cat((weights, matrix[:, -1:]), 1))
        return cls(found, InEightBits.over(*ranges[name]) if width == "int8" and name in ranges else None)

    @property
    def exchange(self) -> Exchange:
        """As `Exchanging` takes it."""
        weight, bias = self.module.weight, self.module.bias
        assert isinstance(weight, nn.Parameter)
        assert isinstance(bias, nn.Parameter)
        return Exchange(weight, bias, self.levels)

    def __call__(self, x: Tensor) -> Tensor:
        """What the layer gives for its input `x`."""
        found: Tensor = self.module(x if self.levels is None else self.levels.rounded(x))
        return found


class _Errors:
    """Second moments of what a variant gives less what the layer gives."""

    def __init__(self) -> None:
        self.second: Tensor | float = 0.0
        self.total: Tensor | float = 0.0
        self.count = 0

    def see(self, rows: Tensor) -> None:
        """Errors (g, P, outputs / g)."""
        self.second = self.second + (rows.mT @ rows).double()
        self.total = self.total + rows.double().sum(1)
        self.count += rows.shape[1]

    def mean(self) -> Tensor:
        """(g, outputs / g)."""
        return torch.as_tensor(self.total) / self.count

    def covariance(self) -> Tensor:
        """(g, outputs / g, outputs / g)."""
        mean = self.mean()
        return torch.as_tensor(self.second) / self.count - mean[:, :, None] * mean[:, None]


def predict(
    model: nn.Module, layers: Sequence[str], crops: CalibrationCrops, variants: Mapping[Key, Variant], batch: int = 8
) -> dict[Key, float]:
    """The Gauss-Newton loss of each variant, whose bias is corrected on the way; in the order of execution."""
    errors: dict[Key, _Errors] = {}
    by_layer: dict[str, list[Key]] = {}
    for key in variants:
        by_layer.setdefault(key[0], []).append(key)

    def see(name: str, x: Tensor, output: Tensor) -> None:
        module, g = affine(model, name), divisions(affine(model, name))
        places = torch.arange(places_of(module, output), device=output.device)
        for key in by_layer[name]:
            rows = output_rows(module, variants[key](x) - output, places)
            errors.setdefault(key, _Errors()).see(rows.reshape(len(rows), g, -1).transpose(0, 1))

    with frozen(model), torch.no_grad(), after(model, by_layer, see):
        for start in range(0, len(crops), batch):
            answer(model, crops.inputs[start : start + batch])
    feels = measure_sensitivity(model, layers, crops, batch=batch)
    for key, found in errors.items():
        bias = variants[key].module.bias
        assert isinstance(bias, Tensor)
        bias -= found.mean().flatten().to(bias)
    return {
        key: max(float((feels[key[0]] * found.covariance()).sum()), 0.0) for key, found in errors.items() if key[0] in feels
    }
