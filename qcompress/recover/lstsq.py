"""Least-squares repair: layer after layer is refitted to give the dense network's outputs from the slim network's inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops
from qcompress.errors import UsageError
from qcompress.frozen import evaluating, frozen
from qcompress.groups import Cut, Groups
from qcompress.progress import Advance
from qcompress.recover.design import Affine, set_matrix, weight_matrix
from qcompress.recover.equations import Batch, Sampling, batches_of, blocks, dense_outputs, equations
from qcompress.recover.moments import affine
from qcompress.recover.passes import Passes
from qcompress.reuse import LIMIT

__all__ = ["LayerFigures", "refit"]

_UNCHANGED = 1e-6  # a relative residual below this is float32 rounding: the layer gives the dense outputs already


@dataclass(frozen=True)
class LayerFigures:
    """How well a layer gives the dense network's outputs, on the crops held back.

    `before` and `after` are the root mean square residual over the outputs' standard deviation, `after` with weights fitted to
    the other crops; it equals `before` where that was no better and the old weights stay (`refitted` False).
    """

    layer: str
    before: float
    after: float
    refitted: bool


def refit(
    dense: nn.Module,
    slim: nn.Module,
    groups: Groups,
    cuts: Mapping[str, Cut],
    crops: CalibrationCrops,
    *,
    ridge: float,
    batch: int,
    positions: int,
    progress: Advance | None = None,
    limit: int = LIMIT,
) -> tuple[LayerFigures, ...]:
    """Change the weights and biases of `slim` in place; layers that give the dense outputs already are left alone.

    In order of execution, W of each layer minimises the mean squared distance to the dense network's outputs (before BatchNorm,
    channels that are kept) plus ridge * (mean squared input) * |W - W_now|^2. A fit to four fifths of the crops has to hold on
    the last fifth, or the old weights stay; the weights taken are then fitted to all of them. About `positions` output places
    are looked at per layer, spread over the crops. `progress` is told the share done, 0..1. What comes before a layer is final
    when its turn comes, and is kept from its neighbour's, in at most `limit` bytes: the passes of all layers together take the
    time of about one. Raises UsageError for fewer than two crops.
    """
    if len(crops) < 2:
        raise UsageError(f"least-squares repair got {len(crops)} calibration crop, expected at least 2", "give it more crops")
    batches = batches_of(crops, batch)
    sampling = Sampling(max(1, positions // len(crops)))
    names = _refittable(slim, groups)
    passes = Passes(slim, limit)
    figures = []
    with frozen(dense), evaluating(slim), torch.no_grad():
        for block in blocks(names, slim, positions):
            targets = dense_outputs(dense, block, cuts, batches, sampling)
            for name in block:
                figures.append(_refit_layer(passes, affine(slim, name), name, targets.pop(name), batches, sampling, ridge))
                if progress:
                    progress(len(figures) / len(names), name)
    return tuple(figure for figure in figures if figure is not None)


def _refittable(slim: nn.Module, groups: Groups) -> list[str]:
    """The layers that are a matrix and whose parameters are their own, in order of execution."""
    names = [layer.name for layer in groups.layers if layer.kind in ("conv", "conv_transpose", "depthwise", "linear")]
    owners = Counter(id(p) for module in slim.modules() for p in module._parameters.values() if p is not None)
    return [name for name in names if all(owners[id(p)] == 1 for p in affine(slim, name).parameters(recurse=False))]


def _refit_layer(
    passes: Passes,
    module: Affine,
    name: str,
    targets: list[list[Tensor]],
    batches: Sequence[Batch],
    sampling: Sampling,
    ridge: float,
) -> LayerFigures | None:
    """Refit one layer in place; None where there is nothing to repair."""
    fit, held = equations(passes, module, name, targets, batches, sampling)
    if not fit.weight:
        return None  # the network does not call this layer
    old = weight_matrix(module)
    spread = held.variance().sum().sqrt()
    before = held.residual(old).sum().sqrt()
    if before <= _UNCHANGED * spread:
        return None
    new = fit.solve(old, ridge)
    after = held.residual(new).sum().sqrt()
    better = bool(after < before)
    if better:
        set_matrix(module, fit.plus(held).solve(old, ridge))
    return LayerFigures(name, float(before / spread), float(min(before, after) / spread), better)
