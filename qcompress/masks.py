"""The pruned network without surgery: units are silenced where they are consumed.

A unit is multiplied by its mask at the *input of every layer that mixes channels*, not at its producer: a zeroed producer still
hands on its bias, and the BatchNorm, PReLU or sigmoid behind it turns the zero into some other constant, so the consumers would
see a value where the slim network has no channel at all. Zero at the consumers is what removal is, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.errors import UsageError
from qcompress.groups import Groups

__all__ = ["channel_axis", "consumer_masks", "consumer_units"]


def consumer_units(groups: Groups) -> dict[str, NDArray[np.intp]]:
    """Per consumer, in order of execution: the place in `groups.space` of the unit behind each input channel, -1 for none."""
    return groups.consumers


def channel_axis(module: nn.Module) -> int:
    """The axis of `module`'s input that its weight mixes: the last for a linear layer, the second for all others."""
    return -1 if isinstance(module, nn.Linear) else 1


def _expand(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """`values` (rows, channels) in the shape that broadcasts against `like`, whose channels are along `axis`."""
    shape = [1] * like.dim()
    shape[0], shape[axis] = values.shape
    return values.reshape(shape)


@contextmanager
def consumer_masks(
    model: nn.Module, groups: Groups, keep: Tensor, fill: Mapping[str, Tensor] | None = None
) -> Iterator[nn.Module]:
    """Inside the context, `model` computes as if its units were scaled by `keep`; outside, it is as before.

    `keep` is (1, n) or (batch, n) over `groups.space`, 1 = stays, 0 = pruned; it may require grad. With one row per image,
    every image has its own mask (and its own gradient). The input X of each consumer becomes X * m, or X * m + f * (1 - m)
    where `fill` names the layer: f, (input channels,), the value that a pruned channel is replaced by (its mean, for a network
    whose biases are repaired). Channels that no unit owns stay. Raises UsageError if the shape of `keep` does not fit.
    """
    n = len(groups.space)
    if keep.dim() != 2 or keep.shape[1] != n:
        raise UsageError(f"keep has shape {tuple(keep.shape)}, expected (1, {n}) or (batch, {n})")
    padded = torch.cat((keep, keep.new_ones(len(keep), 1)), 1)  # the last column, which -1 points to, is always kept
    fill = fill or {}
    handles = []
    try:
        for name, units in consumer_units(groups).items():
            mask = padded[:, torch.from_numpy(units).to(keep.device)]
            handles.append(model.get_submodule(name).register_forward_pre_hook(_Multiply(name, mask, fill.get(name))))
        yield model
    finally:
        for handle in handles:
            handle.remove()


class _Multiply:
    """A forward pre-hook: the layer's input times `mask` (rows, channels), plus `fill` (channels,) where the mask is 0."""

    def __init__(self, name: str, mask: Tensor, fill: Tensor | None) -> None:
        self.name = name
        self.mask = mask
        self.fill = None if fill is None else fill.to(mask) * (1 - mask)

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *rest = args
        if len(self.mask) not in (1, len(x)):
            raise UsageError(f"{self.name}: {len(x)} images meet {len(self.mask)} masks; expected one mask, or one per image")
        axis = channel_axis(module)
        x = x * _expand(self.mask, x, axis).to(x.dtype)
        if self.fill is not None:
            x = x + _expand(self.fill, x, axis).to(x.dtype)
        return (x, *rest)
