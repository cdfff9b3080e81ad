"""Convolutions of every kind and linear layers as one thing: rows of inputs times a matrix.

For a layer with g divisions (`groups` of a convolution, channels of a depthwise one), output place p of image i is
Y[g] = X[g] @ W[g]: a row of X[g] holds the D inputs that the kernel sees there, W[g] is (D, outputs of the division).
A transposed convolution is the ordinary convolution, with the flipped kernel, of its input stuffed with zeros.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "Affine",
    "divisions",
    "is_affine",
    "output_rows",
    "parameters_of",
    "places_of",
    "rows",
    "set_matrix",
    "weight_matrix",
]

_Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
_Transposed: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Affine: TypeAlias = _Conv | _Transposed | nn.Linear


def is_affine(module: nn.Module) -> bool:
    """Whether `module` is one of the layers that this file can turn into a matrix."""
    return isinstance(module, Affine)


def divisions(module: Affine) -> int:
    """Number of independent parts of the layer: 1 unless it is a grouped or depthwise convolution."""
    return 1 if isinstance(module, nn.Linear) else module.groups


def places_of(module: Affine, output: Tensor) -> int:
    """Number of places per image at which `output` (N, ...) was computed."""
    return output.numel() // len(output) // output.shape[-1 if isinstance(module, nn.Linear) else 1]


def output_rows(module: Affine, output: Tensor, places: Tensor) -> Tensor:
    """(N * P, outputs): the rows of `output` at `places` (P,) of each image, image by image."""
    if isinstance(module, nn.Linear):
        return output.reshape(len(output), -1, output.shape[-1])[:, places].flatten(0, 1)
    return output.flatten(2)[:, :, places].transpose(1, 2).flatten(0, 1)


def rows(module: Affine, x: Tensor, output: Tensor, places: Tensor) -> Tensor:
    """(g, N * P, D): what the layer saw of its input `x` to compute `output` at `places` (P,) of each image, image by image."""
    if isinstance(module, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1])[:, places].flatten(0, 1)[None]
    spatial = output.shape[2:]
    if isinstance(module, _Transposed):
        x, stride = _stuffed(module, x, spatial), (1,) * len(spatial)
    else:
        x, stride = _padded(module, x), module.stride
    seen = x.flatten(2).transpose(1, 2).contiguous()  # whole places are read then, of all channels at once
    seen = seen[:, _under_kernel(module, x.shape[2:], stride, torch.unravel_index(places, spatial))]
    seen = seen.reshape(len(x), len(places), -1, module.groups, x.shape[1] // module.groups)  # N, P, kernel, g, C / g
    return seen.permute(3, 0, 1, 4, 2).reshape(module.groups, len(x) * len(places), -1)


def _under_kernel(
    module: _Conv | _Transposed, sides: torch.Size, stride: tuple[int, ...], places: tuple[Tensor, ...]
) -> Tensor:
    """(P * kernel,): where in the flattened, padded input of these sides the kernel looks from `places`, (P,) per axis."""
    where = places[0].new_zeros(len(places[0]), 1)
    for at, size, step, dilation, side in zip(places, module.kernel_size, stride, module.dilation, sides, strict=True):
        along = (at * step)[:, None] + dilation * torch.arange(size, device=at.device)
        where = (where[:, :, None] * side + along[:, None, :]).flatten(1)
    return where.flatten()


def _padded(module: _Conv, x: Tensor) -> Tensor:
    """`x` with the layer's padding, of whatever mode, around it."""
    pads: list[int] = []
    for axis in reversed(range(x.dim() - 2)):  # functional.pad counts axes from the last
        if module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            pads += [total // 2, total - total // 2]
        else:
            pads += [0 if isinstance(module.padding, str) else module.padding[axis]] * 2
    return functional.pad(x, pads, "constant" if module.padding_mode == "zeros" else module.padding_mode)


def _stuffed(module: _Transposed, x: Tensor, spatial: torch.Size) -> Tensor:
    """`x` with stride - 1 zeros between its places, padded so that sliding the kernel over it gives `spatial` places."""
    strides = module.stride
    stuffed = x.new_zeros(*x.shape[:2], *((size - 1) * stride + 1 for size, stride in zip(x.shape[2:], strides, strict=True)))
    every: tuple[slice, ...] = (slice(None), slice(None), *(slice(None, None, stride) for stride in strides))
    stuffed[every] = x
    pads: list[int] = []
    for axis in reversed(range(len(spatial))):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
        padding = module.padding[axis]
        assert not isinstance(padding, str)  # transposed convolutions take numbers only
        before = reach - padding
        pads += [before, spatial[axis] + reach - stuffed.shape[2 + axis] - before]  # output padding is in what is left
    return functional.pad(stuffed, pads)


def weight_matrix(module: Affine) -> Tensor:
    """(g, D + 1, outputs / g) float64: the weight as in the module docstring, and the bias (or zeros) as the last row."""
    g, weight = divisions(module), module.weight.detach().double()
    if isinstance(module, _Transposed):
        flipped = weight.flip(tuple(range(2, weight.dim()))) if weight.dim() > 2 else weight
        matrix = flipped.reshape(g, weight.shape[0] // g, weight.shape[1], -1).transpose(2, 3).flatten(1, 2)
    else:
        matrix = weight.reshape(g, weight.shape[0] // g, -1).transpose(1, 2)
    bias = matrix.new_zeros(g * matrix.shape[2]) if module.bias is None else module.bias.detach().double()
    return torch.cat((matrix, bias.reshape(g, 1, -1)), 1)


def set_matrix(module: Affine, matrix: Tensor) -> None:
    """The inverse of `weight_matrix`: gives the layer new parameters. A layer without a bias gets one."""
    old = module.weight
    weight, bias = parameters_of(module, matrix)
    module.weight, module.bias = nn.Parameter(weight, old.requires_grad), nn.Parameter(bias, old.requires_grad)


def parameters_of(module: Affine, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias, as `module` has them, for a matrix (g, D + 1, outputs / g) of perhaps other channels than its own."""
    weight, bias = matrix[:, :-1], matrix[:, -1].flatten()
    g, old, each = len(matrix), module.weight, matrix.shape[2]
    taps = old.shape[2:]  # none of a linear layer
    if isinstance(module, _Transposed):
        new = weight.reshape(g, -1, taps.numel(), each).transpose(2, 3).reshape(-1, each, *taps)
        new = new.flip(tuple(range(2, old.dim())))
    else:
        new = weight.transpose(1, 2).reshape(g * each, -1, *taps)
    return new.to(old).contiguous(), bias.to(old)
