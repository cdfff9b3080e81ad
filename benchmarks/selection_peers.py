"""Torch-Pruning's importance scores (Fang et al., CVPR 2023), of the units that this tool found.

For each of our groups, Torch-Pruning is asked for its own group of the same first producer, with all its channels, and scores
it with its defaults: `MagnitudeImportance` (squared weights, mean over the layers of the group) or `GroupTaylorImportance`
(|w dL/dw| after a backward pass of the mean loss over the calibration crops), either divided by the mean of the group. That is
what its global pruning ranks over all groups, and so do we. A group whose producer we split takes its own channels' scores; a
unit of several channels takes their mean. The budget, the floors and the blocks are ours, the same for all ways.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import nn

from qcompress.frozen import answer
from qcompress.groups import Group, Groups

if TYPE_CHECKING:
    from selection_bench import Bench

__all__ = ["PeerImportance", "peer_importance"]

PeerImportance = Literal["MagnitudeImportance", "GroupTaylorImportance"]
_PRODUCERS = ("conv", "conv_transpose", "linear")


def peer_importance(bench: Bench, kind: PeerImportance) -> NDArray[np.float64]:
    """(n,) the importance of each unit, in the order of `bench.groups.space`. Raises what Torch-Pruning raises."""
    probe = copy.deepcopy(bench.job.model).eval().requires_grad_(True)
    example = bench.calibration.inputs[:2]  # of a single grey image its graph holds one convolution only
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of layers that it does not know
        graph = torch_pruning.DependencyGraph().build_dependency(probe, example_inputs=example.clone(), verbose=False)
    if kind == "GroupTaylorImportance":
        _accumulate(bench, probe)
    measure = getattr(torch_pruning.importance, kind)()
    return np.concatenate([_of_group(graph, probe, bench.groups, group, measure) for group in bench.groups.groups])


def _accumulate(bench: Bench, probe: nn.Module) -> None:
    """Gradients of the mean loss over the calibration crops, in the weights; of labels by cross entropy, as users of it do."""
    crops, loss, batch = bench.calibration, bench.metric.chooser.loss, bench.batch
    probe.zero_grad()
    with torch.enable_grad():
        for x, y in zip(torch.split(crops.inputs, batch), torch.split(crops.targets, batch), strict=True):
            torch.autograd.backward(loss(answer(probe, x), y).sum() / len(crops))


def _of_group(graph: Any, probe: nn.Module, groups: Groups, group: Group, measure: Any) -> NDArray[np.float64]:
    kinds = {layer.name: layer for layer in groups.layers}
    producer = next(member for member in group.side("out") if kinds[member.layer].kind in _PRODUCERS)
    module = probe.get_submodule(producer.layer)
    everything = list(range(kinds[producer.layer].outputs))
    found = graph.get_pruning_group(module, graph.get_pruner_of_module(module).prune_out_channels, everything)
    scores = measure(found).detach().double().cpu().numpy()
    return np.array([scores[list(channels)].mean() for channels in producer.channels])
