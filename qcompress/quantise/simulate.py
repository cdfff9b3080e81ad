"""A network that computes in float32 what it will compute once its layers have other widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qcompress.data.images import Crops
from qcompress.errors import UsageError
from qcompress.quantise.grids import LEVELS, halved, largest, on_grid, per_column
from qcompress.quantise.ranges import Ranges, observe, step_of
from qcompress.recover.design import Affine, parameters_of, weight_matrix
from qcompress.recover.moments import affine
from qcompress.widths import WIDTHS

__all__ = ["InEightBits", "check_widths", "simulated"]


@dataclass(frozen=True)
class InEightBits:
    """Rounds to 256 levels what a layer sees: a forward pre-hook, which a copy of the network keeps."""

    scale: float
    zero_point: int

    @classmethod
    def over(cls, low: float, high: float) -> InEightBits:
        """The levels of a range."""
        return cls(*step_of(low, high))

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call of the layer, the first of them rounded."""
        return (self.rounded(args[0]), *args[1:])

    def rounded(self, x: Tensor) -> Tensor:
        """`x` on the levels; gradients pass where nothing is cut off."""
        found: Tensor = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, 255)
        return found


def simulated(
    model: nn.Module, widths: Mapping[str, str], seen: Ranges | Crops, *, scales: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """A copy of `model` whose layers have these `widths`, by name; those that are not named stay float32.

    int8     weights on 255 levels per output channel, the input on 256 levels over its range, the bias on the grid of products
    int4     weights on 16 levels per output channel
    float16  weights as float16 holds them

    `seen` has the ranges of the inputs of int8 layers, or the images on which `model` shows them. Scales of weights are those
    of `scales` (as `grids.along_outputs`) where a layer has some, else those of the largest weight. What is between the
    layers, such as sums, is computed in float32 here; a runtime may round it to 8 bits as well. Raises UsageError for a width
    that is not known, a name that is no layer, and an int8 layer without a range.
    """
    check_widths(model, widths)
    eighths = [name for name, width in widths.items() if width == "int8"]
    ranges = observe(model, eighths, seen) if isinstance(seen, Crops) else seen
    found = copy.deepcopy(model)
    for name, width in widths.items():
        module = affine(found, name)
        given = None if scales is None else scales.get(name)
        if width in LEVELS:
            matrix = weight_matrix(module)[:, :-1]
            scale = largest(module, matrix, width) if given is None else per_column(module, given.to(matrix.device))
            _put_on_grid(module, scale, width)
        if width == "int8":
            if name not in ranges:
                raise UsageError(f"layer {name} is to be int8, but nothing is known of its input", "does the network call it?")
            levels = InEightBits.over(*ranges[name])
            _round_bias(module, scale * levels.scale)
            module.register_forward_pre_hook(levels)
        if width == "float16":
            module.weight.data = halved(module.weight.data)
    return found


def check_widths(model: nn.Module, widths: Mapping[str, str]) -> None:
    """Raises UsageError for a width that is not known, or a name that is no convolution or linear layer of `model`."""
    modules = dict(model.named_modules())
    for name, width in widths.items():
        if width not in WIDTHS:
            raise UsageError(f"layer {name}: width {width!r} is not known, expected one of {', '.join(WIDTHS)}")
        if not isinstance(modules.get(name), Affine):
            kind = type(modules[name]).__name__ if name in modules else "not there"
            raise UsageError(
                f"layer {name} is {kind}, expected a convolution or a linear layer", "is it another network's plan?"
            )


def _put_on_grid(module: Affine, scale: Tensor, width: str) -> None:
    """Rounds the weights, in place; the bias is not touched."""
    matrix = weight_matrix(module)
    matrix[:, :-1] = on_grid(matrix[:, :-1], scale, width)
    module.weight.data = parameters_of(module, matrix)[0]


def _round_bias(module: Affine, step: Tensor) -> None:
    """Rounds the bias to whole numbers of 32 bits times `step` (g, 1, outputs / g), in place."""
    if module.bias is not None:
        levels = step.flatten()
        whole = (module.bias.data.double() / levels).round().clamp(-(2**31), 2**31 - 1)
        module.bias.data = (whole * levels).to(module.bias)
