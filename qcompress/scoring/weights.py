"""How large a unit's weights are: the a_i of the L1 pruning loss, a_i = ||w_i||_1 / N_i (Wang et al., arXiv 2505.16332)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.groups import Groups

__all__ = ["magnitudes"]

_PRODUCERS = ("conv", "conv_transpose", "linear")  # layers that make channels; all others hand them through


def magnitudes(model: nn.Module, groups: Groups) -> NDArray[np.float64]:
    """(n,) the mean absolute weight of each unit's slices of the layers that produce it, in the order of `groups.space`."""
    kinds = {layer.name: layer.kind for layer in groups.layers}
    result = np.zeros(len(groups.space))
    for group, span in zip(groups.groups, groups.space.spans, strict=True):
        sums, counts = np.zeros(group.size), np.zeros(group.size)
        for member in group.side("out"):
            if kinds[member.layer] not in _PRODUCERS:
                continue
            rows = _filters(model.get_submodule(member.layer))
            means = rows.abs().mean(1).cpu()  # units are summed one by one, each a wait for another device
            for unit, channels in enumerate(member.channels):
                sums[unit] += float(means[list(channels)].sum()) * rows.shape[1]
                counts[unit] += len(channels) * rows.shape[1]
        result[span] = sums / np.maximum(counts, 1)
    return result


def _filters(module: nn.Module) -> Tensor:
    """(outputs, weights of one output): the weight of `module`, one row per output channel, float64."""
    weight = module.get_parameter("weight").detach().double()
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        # (inputs, outputs / divisions, ...): the inputs of a division, for each of its outputs
        weight = torch.cat([part.transpose(0, 1) for part in weight.chunk(module.groups)])
    return weight.flatten(1)
