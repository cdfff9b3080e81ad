"""Channels brought to like ranges: one layer gives 1/s of a channel, and the next takes s times it.

Everything that a layer sees is rounded with one step. A channel of small range loses most there, and gains if it is scaled up
before; the weights that take it up shrink, and lose more on their grid. The scale that shares the burden is that of SmoothQuant
(Xiao et al., ICML 2023), on the coupled groups of pruning, as cross-layer equalisation (Nagel et al., ICCV 2019) is on chains.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from qcompress import seeds
from qcompress.data.images import Crops
from qcompress.frozen import answer, frozen
from qcompress.groups import Group, Groups, Layer, Member
from qcompress.quantise.layers import before
from qcompress.quantise.trials import harmless
from qcompress.recover.design import Affine, divisions, parameters_of, weight_matrix
from qcompress.recover.moments import affine

__all__ = ["Equalised", "equalise"]

_STRENGTH = 0.5  # of the ranges of what is seen, against those of the weights
_FARTHEST = 2.0**-8  # ranges below this share of the largest count as this
_BATCH = 8
_PRODUCERS = ("conv", "conv_transpose", "linear")
_PASSING = (*_PRODUCERS, "depthwise", "batchnorm", "prelu", "parameter")  # what scales can be given to, or pass through


@dataclass(frozen=True, eq=False)
class Equalised:
    """The network, and the names of the groups that were scaled, and of those that the network's function depends on."""

    model: nn.Module
    scaled: tuple[str, ...]
    left: tuple[str, ...]


def equalise(model: nn.Module, groups: Groups, layers: Sequence[str], crops: Crops, strength: float = _STRENGTH) -> Equalised:
    """A copy of `model` in evaluation mode, the same function, whose channels are better to round.

    Scaled are the groups whose units one of `layers` sees, those that are to be rounded. A unit's scale is a^strength /
    w^(1 - strength): a is the largest value of its channels on `crops`, w their largest weight in a consumer, each over the
    largest of the same input or output. Whether scales pass unchanged is tried, with strong ones, on the first of the crops:
    they do through ReLU, PReLU, pooling, sums and interpolation, not through a sigmoid or ReLU6.
    """
    kinds = {layer.name: layer for layer in groups.layers}
    seeing = [group for group in groups.groups if any(member.layer in layers for member in group.side("in"))]
    able = [group for group in seeing if all(_passes(kinds, member) for member in group.members)]
    trials = [partial(_scale, group, kinds, _strong(group)) for group in able]
    found = copy.deepcopy(model).eval()
    passed = [able[place] for place in harmless(model, trials, crops.inputs[:1])]
    tops = _tops(model, [member.layer for group in passed for member in group.side("in")], crops)
    for group in passed:
        _scale(group, kinds, _scales(model, group, set(layers), tops, strength), found)
    names = tuple(group.name for group in passed)
    return Equalised(found, names, tuple(group.name for group in seeing if group.name not in names))


def _passes(kinds: Mapping[str, Layer], member: Member) -> bool:
    layer = kinds.get(member.layer)
    return layer is not None and layer.kind in (_PRODUCERS if member.side == "in" else _PASSING)


def _strong(group: Group) -> Tensor:
    """(units,) powers of two, which change no digit: 1/4 to 4."""
    drawn = seeds.stream(0, f"equalisation/{group.name}").integers(-2, 3, group.size)
    return torch.from_numpy(np.exp2(drawn.astype(np.float64)))


def _scale(group: Group, kinds: Mapping[str, Layer], scales: Tensor, model: nn.Module) -> None:
    """Every unit's channels are divided by its scale (units,), and multiplied by it where they are consumed."""
    for member in group.members:
        layer = kinds[member.layer]
        each = torch.ones(layer.inputs if member.side == "in" else layer.outputs, dtype=torch.float64)
        for scale, channels in zip(scales.tolist(), member.channels, strict=True):
            each[list(channels)] = scale
        if layer.kind in _PRODUCERS or layer.kind == "depthwise":
            _scale_layer(affine(model, layer.name), member, each, passing=layer.kind == "depthwise")
        elif layer.kind == "batchnorm":
            norm = model.get_submodule(layer.name)
            for key in ("running_mean", "bias"):  # of one that was folded nothing is left
                held = getattr(norm, key, None)
                if isinstance(held, Tensor):
                    held.data = held.data / each.to(held)


def _scale_layer(module: Affine, member: Member, each: Tensor, *, passing: bool) -> None:
    """`each` (channels,) scales the inputs or the outputs; what only passes channels through has a bias to scale."""
    matrix, g = weight_matrix(module), divisions(module)
    each = each.to(matrix.device)
    if member.side == "in":
        columns = each.reshape(g, -1)
        matrix[:, :-1] *= columns.repeat_interleave((matrix.shape[1] - 1) // columns.shape[1], 1)[:, :, None]
    elif passing:
        matrix[:, -1] /= each.reshape(g, -1)
    else:
        matrix /= each.reshape(g, 1, -1)
    weight, bias = parameters_of(module, matrix)
    module.weight.data = weight
    if module.bias is not None:
        module.bias.data = bias


def _tops(model: nn.Module, layers: Sequence[str], crops: Crops) -> dict[str, Tensor]:
    """(inputs,) the largest absolute value of each input channel of each of `layers`."""
    tops: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        axis = x.dim() - 1 if isinstance(affine(model, name), nn.Linear) else 1
        found = x.abs().amax([place for place in range(x.dim()) if place != axis])
        tops[name] = torch.maximum(tops[name], found) if name in tops else found

    with frozen(model), torch.no_grad(), before(model, dict.fromkeys(layers), see):
        for start in range(0, len(crops), _BATCH):
            answer(model, crops.inputs[start : start + _BATCH])
    return tops


def _scales(model: nn.Module, group: Group, layers: set[str], tops: Mapping[str, Tensor], strength: float) -> Tensor:
    """(units,) float64 scales, at which the largest range of the group becomes that of the whole input."""
    seen, taken = torch.zeros(group.size, dtype=torch.float64), torch.zeros(group.size, dtype=torch.float64)
    for member in group.side("in"):
        if member.layer not in layers or member.layer not in tops:
            continue
        channels = torch.tensor(member.channels)
        top = tops[member.layer].double().cpu()
        seen = torch.maximum(seen, _share(top)[channels].amax(1))
        taken = torch.maximum(taken, _share(_columns(affine(model, member.layer)))[channels].amax(1))
    a, w = seen.clamp(min=_FARTHEST), taken.clamp(min=_FARTHEST)
    scales = a**strength / w ** (1 - strength)
    return scales * (a / scales).amax()


def _columns(module: Affine) -> Tensor:
    """(inputs,) the largest weight on each input channel, over the largest weight of the same output."""
    weights = weight_matrix(module)[:, :-1].abs().cpu()
    shares = weights / weights.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return shares.amax(2).reshape(weights.shape[0], -1, _taps(module)).amax(2).flatten()


def _taps(module: Affine) -> int:
    """Weights per pair of channels."""
    return 1 if isinstance(module, nn.Linear) else module.weight[0, 0].numel()


def _share(values: Tensor) -> Tensor:
    """`values` over the largest of them."""
    top = values.amax()
    return values / top if top > 0 else torch.ones_like(values)
