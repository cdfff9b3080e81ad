"""Torch-Pruning's own pruners (Fang et al., CVPR 2023), with its own groups and ranking, down to the same MACs.

Global pruning in many small steps, until no more than the share of the MACs is left: by magnitude (`MagnitudePruner`), by
first-order Taylor terms (`GroupTaylorImportance`, after a backward pass of the mean loss over the calibration crops), and by
group norm (`GroupNormPruner`), without the sparse training that its paper puts first and with it: steps which the others do
not have.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
import torch_pruning
from recovery_sparse import train_sparsely
from selection_bench import Bench
from torch import Tensor, nn
from torch_pruning.pruner.importance import GroupMagnitudeImportance, GroupTaylorImportance, MagnitudeImportance

from qcompress.frozen import answer
from qcompress.pipeline import Job

__all__ = ["PEERS", "Pruned", "pruned"]

_STEPS = 200  # so that the MACs are met within a per cent
_FRESH = 10  # steps after which gradients are taken anew; in between they are cut like the weights
_STRENGTH = 0.5
"""Of the regulariser: a thousand times the authors' 5e-4, since their rate is a hundred times ours, as are their 39,000 steps.

After 200 sparse steps and 60 of fine-tuning, 5e-4, 0.1, 0.5, 1 and 3 ended 1.99, 2.31, 1.28, 1.34 and 11.31 dB below dense
(reference network, seed 0, selection images).
"""


class UnpaddedTaylor(GroupTaylorImportance):  # type: ignore[misc]
    """Taylor terms of the channels that a group has, and no more.

    Torch-Pruning 1.6.1 gives a group as many scores as the first layer has that it scores. Where that layer has every channel
    twice, as behind the concatenation of a Ghost block, the second half stays zero: below every threshold, and the indices
    of no channels, which its own check refuses.
    """

    def __init__(self) -> None:
        super().__init__(normalizer=None)

    def __call__(self, group: Any) -> Tensor | None:
        """(channels,) scores with mean 1, as Torch-Pruning has them; None for a group without a layer that is scored.

        Raises ValueError where what would be cut off is not zero.
        """
        padded, channels = super().__call__(group), len(group[0].idxs)
        if padded is None:
            return None
        if padded[channels:].any():
            raise ValueError(f"{len(padded)} scores for {channels} channels, and what is beyond is not zero")
        scores: Tensor = self._normalize(padded[:channels], "mean")
        return scores


@dataclass(frozen=True)
class Peer:
    """A pruner of `torch_pruning.pruner` and its importance, with their defaults but for `options`.

    gradients  whether the importance needs them
    sparse     whether a sparse training comes first
    """

    pruner: str
    importance: Callable[[], Any]
    gradients: bool = False
    sparse: bool = False
    options: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network as cut, and the steps of training that went before."""

    model: nn.Module
    sparse_steps: int


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "Torch-Pruning magnitude": Peer("MagnitudePruner", MagnitudeImportance),
        "Torch-Pruning Taylor": Peer("BasePruner", GroupTaylorImportance, gradients=True),
        "Torch-Pruning Taylor, padding cut off": Peer("BasePruner", UnpaddedTaylor, gradients=True),
        "Torch-Pruning group norm": Peer("GroupNormPruner", GroupMagnitudeImportance),
        "Torch-Pruning group norm, sparse training": Peer(
            "GroupNormPruner",
            lambda: GroupMagnitudeImportance(normalizer="max"),  # as the authors' reproduce/main.py has it
            sparse=True,
            options=MappingProxyType({"reg": _STRENGTH}),
        ),
    }
)


def pruned(bench: Bench, job: Job, name: str) -> Pruned:
    """The network without the share of its MACs that `job` asks for.

    Raises what Torch-Pruning does, RuntimeError where it ends before, FloatingPointError where a training diverges.
    """
    model, peer, share = copy.deepcopy(job.model).eval().requires_grad_(True), PEERS[name], 1 - job.settings.sparsity
    example = bench.calibration.inputs[:2, :, :64, :64].clone()  # of a single grey image its graph holds one convolution only
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of layers that it does not know
        pruner = _pruner(bench, peer, model, example)
        dense, sparse_steps = _macs(model, example), 0
        if peer.sparse:
            pruner.update_regularizer()
            sparse_steps = train_sparsely(job, model, pruner.regularize)
        for step in range(_STEPS):
            if peer.gradients and step % _FRESH == 0:
                _accumulate(bench, model)
            pruner.step()
            if _macs(model, example) <= share * dense:
                break
        else:
            raise RuntimeError(f"{_macs(model, example) / dense:.3f} of the MACs are left, expected {share}")
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        answer(model, example)  # its groups may leave a network that does not run
    return Pruned(model.eval(), sparse_steps)


def _pruner(bench: Bench, peer: Peer, model: nn.Module, example: Tensor) -> Any:
    """Of Torch-Pruning, for all layers but those that have to stay whole."""
    whole = [kept.layer for kept in bench.groups.kept_whole]
    kept = [module for name, module in model.named_modules() if name in whole and isinstance(module, nn.Conv2d | nn.Linear)]
    return getattr(torch_pruning.pruner, peer.pruner)(
        model,
        example,
        importance=peer.importance(),
        global_pruning=True,
        pruning_ratio=0.9,
        iterative_steps=_STEPS,
        ignored_layers=kept,
        **peer.options,
    )


def _macs(model: nn.Module, example: torch.Tensor) -> float:
    """Of convolutions and linear layers alone, as this tool counts them."""
    total = 0.0

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        places = output[0, 0].numel() if output.dim() == 4 else 1
        if isinstance(module, nn.ConvTranspose2d):
            places //= module.stride[0] * module.stride[1]
        total += module.weight.numel() * places

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        answer(model, example[:1])
    for handle in handles:
        handle.remove()
    return total


def _accumulate(bench: Bench, model: nn.Module) -> None:
    """Gradients of the mean loss over the calibration crops, in the weights."""
    crops, loss = bench.calibration, bench.metric.chooser.loss
    model.zero_grad()
    for x, y in zip(*(torch.split(part, bench.batch) for part in (crops.inputs, crops.targets)), strict=True):
        torch.autograd.backward(loss(answer(model, x), y).sum() / len(crops))
