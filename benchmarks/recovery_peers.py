"""Torch-Pruning's own pruners (Fang et al., CVPR 2023), with its own groups and ranking, down to the same MACs.

Global pruning in many small steps, until no more than the share of the MACs is left: by magnitude (`MagnitudePruner`), by
first-order Taylor terms (`GroupTaylorImportance`, after a backward pass of the mean loss over the calibration crops), and
`GroupNormPruner` with its own importance, without the sparse training that its paper puts first.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch_pruning
from selection_bench import Bench
from torch import nn

from qcompress.frozen import answer

__all__ = ["PEERS", "pruned"]

_STEPS = 200  # so that the MACs are met within a per cent
_FRESH = 10  # steps after which gradients are taken anew; in between they are cut like the weights

Importance = Callable[[], Any]

PEERS: Mapping[str, tuple[str, Importance]] = MappingProxyType(
    {
        "Torch-Pruning magnitude": ("MagnitudePruner", torch_pruning.importance.MagnitudeImportance),
        "Torch-Pruning Taylor": ("BasePruner", torch_pruning.importance.GroupTaylorImportance),
        "Torch-Pruning group norm": ("GroupNormPruner", torch_pruning.importance.GroupMagnitudeImportance),
    }
)
"""Name to pruner and importance, each with its defaults."""


def pruned(bench: Bench, name: str, share: float) -> nn.Module:
    """The network with at most `share` of its MACs left. Raises what Torch-Pruning does, RuntimeError where it ends before."""
    model = copy.deepcopy(bench.job.model).eval().requires_grad_(True)
    kind, importance = PEERS[name]
    example = bench.calibration.inputs[:2, :, :64, :64].clone()  # of a single grey image its graph holds one convolution only
    whole = [kept.layer for kept in bench.groups.kept_whole]
    kept = [module for name, module in model.named_modules() if name in whole and isinstance(module, nn.Conv2d | nn.Linear)]
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of layers that it does not know
        pruner = getattr(torch_pruning.pruner, kind)(
            model,
            example,
            importance=importance(),
            global_pruning=True,
            pruning_ratio=0.9,
            iterative_steps=_STEPS,
            ignored_layers=kept,
        )
        dense = _macs(model, example)
        for step in range(_STEPS):
            if "Taylor" in name and step % _FRESH == 0:
                _accumulate(bench, model)
            pruner.step()
            if _macs(model, example) <= share * dense:
                break
        else:
            raise RuntimeError(f"{_macs(model, example) / dense:.3f} of the MACs are left, expected {share}")
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        answer(model, example)  # its groups may leave a network that does not run
    return model.eval()


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
