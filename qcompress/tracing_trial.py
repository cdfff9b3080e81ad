"""The guard of tracing: a group is believed once a third of it was removed and the network computed what it should."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress import seeds
from qcompress.groups import Groups
from qcompress.masks import consumer_masks
from qcompress.selection import Selection, UnitSpace
from qcompress.surgery import SlicedShell, relative_difference
from qcompress.tracing_layers import kind_of

__all__ = ["TOLERANCE", "failures", "randomised"]

TOLERANCE = 1e-4  # relative; float32 networks stay some orders below, a leaking bias is above 1e-2


def _fill(module: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    """Random values for one layer; those of kinds that are not cut move a little only, away from zeros that hide mistakes."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        tensors = (module.weight, 1.0, 0.2), (module.bias, 0.0, 0.3), (module.running_mean, 0.0, 0.3)
        for tensor, mean, spread in tensors:
            if isinstance(tensor, Tensor):
                tensor.copy_(mean + spread * draw(tensor))
        if isinstance(module.running_var, Tensor):
            module.running_var.copy_((0.3 * draw(module.running_var)).exp())
        return
    known = kind_of(module) not in ("other", "prelu")
    for name, parameter in module._parameters.items():
        if parameter is None or not parameter.is_floating_point():
            continue
        if known and name == "weight":  # keeps the scale through a ReLU, whatever the depth
            parameter.copy_(math.sqrt(2 * len(parameter) / parameter.numel()) * draw(parameter))
        else:
            parameter.add_(0.1 * draw(parameter))


def randomised(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode with random weights and statistics: no bias or BatchNorm shift hides in zeros."""
    probe = copy.deepcopy(model).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seeds.integer(0, "tracing.weights"))

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    with torch.no_grad():
        for module in probe.modules():
            _fill(module, draw)
    return probe


def _third(space: UnitSpace, group: str) -> NDArray[np.intp]:
    """The places of about a third of the units of `group`, at least one and not all."""
    span = space.span(group)
    size = span.stop - span.start
    chosen: NDArray[np.intp] = seeds.stream(0, f"tracing.trial.{group}").permutation(size)[
        : min(max(1, round(size / 3)), size - 1)
    ]
    places: NDArray[np.intp] = np.sort(chosen) + span.start
    return places


def failures(model: nn.Module, groups: Groups, example: Tensor) -> dict[str, str]:
    """Why each group whose removal is not what its masks say must not be pruned; empty if all are sound.

    A third of each group is removed in turn, on top of all those found sound before, from a copy of `model` with random
    weights; so the last trial is of the whole plan. `example` gives the shape of the input; every group has two units or more.
    """
    probe = randomised(model)
    shell = SlicedShell(probe)
    generator = torch.Generator().manual_seed(seeds.integer(0, "tracing.input"))
    x = torch.rand(example.shape, generator=generator, dtype=example.dtype).to(example.device)
    removed = np.zeros(len(groups.space), bool)
    reasons: dict[str, str] = {}
    for group in groups.groups:
        trial = removed.copy()
        trial[_third(groups.space, group.name)] = True
        reason = _failure(probe, shell, groups, Selection.of(groups.space, trial), x)
        if reason is None:
            removed = trial
        else:
            reasons[group.name] = reason
    return reasons


def _failure(probe: nn.Module, shell: SlicedShell, groups: Groups, selection: Selection, x: Tensor) -> str | None:
    """Why `selection` cannot be removed; None if the sliced network computes what the masked one does."""
    keep = torch.from_numpy(~selection.x)[None].to(x)
    try:
        with torch.no_grad():
            with consumer_masks(probe, groups, keep):
                masked = probe(x)
            difference = relative_difference(shell.cut(groups.cuts(selection))(x), masked)
    except Exception as error:  # whatever the foreign forward raises: the group is kept, and the reason shown
        return f"without some of its channels the network fails ({type(error).__name__})"
    if difference <= TOLERANCE:
        return None
    return f"without some of its channels the network computes something else (relative difference {difference:.0e})"
