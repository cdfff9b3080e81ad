"""Weights put on their grids layer by layer, in the order of execution, each from what the layers before it then give."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qcompress.data.images import CalibrationCrops
from qcompress.frozen import evaluating, frozen
from qcompress.progress import Advance
from qcompress.quantise.bias import with_best_bias
from qcompress.quantise.grids import LEVELS, along_outputs, halved, largest, on_grid
from qcompress.quantise.layers import own_layers
from qcompress.quantise.ranges import Ranges
from qcompress.quantise.rounding import centred, compensated
from qcompress.quantise.simulate import InEightBits
from qcompress.recover.design import Affine, parameters_of, set_matrix, weight_matrix
from qcompress.recover.equations import Sampling, batches_of, blocks, dense_outputs, equations
from qcompress.recover.moments import WIDEST, affine
from qcompress.recover.passes import Passes
from qcompress.recover.ridge import NormalEquations
from qcompress.reuse import LIMIT

__all__ = ["OnGrids", "Way", "put_on_grids", "rounded_to_nearest"]

_RIDGE = 1e-4
_UNCHANGED = 1e-6  # a relative residual below this is float32 rounding: the layer gives the dense outputs already


@dataclass(frozen=True, eq=False)
class OnGrids:
    """A float32 network whose weights lie on their grids, and the scales of these, by layer (`grids.along_outputs`)."""

    model: nn.Module
    scales: Mapping[str, Tensor]


@dataclass(frozen=True)
class Way:
    """How weights are put on their grids.

    compensating  what one weight loses, those after it make up for (`rounding.compensated`); else each goes to its nearest
    learning      first fitted by least squares to what the whole network gives, from what the layer sees of those before it
    correcting    the bias makes up for the mean error (`bias.with_best_bias`)
    """

    compensating: bool = True
    learning: bool = True
    correcting: bool = True

    def weights(self, module: Affine, width: str, found: NormalEquations) -> tuple[Tensor, Tensor]:
        """(g, D + 1, outputs / g) weights on the grid, with the bias, and their scale; of float widths, 1."""
        start = weight_matrix(module)
        if self.learning:
            start = found.solve(start, _RIDGE)
        weights, scale = start[:, :-1], torch.ones_like(start[:, :1])
        if width in LEVELS:
            scale = largest(module, weights, width)
            round_to = compensated if self.compensating else _nearest
            weights = round_to(weights, scale, width, centred(found.inputs()))
        elif width == "float16":
            weights = halved(weights)
        if self.correcting:
            return with_best_bias(found, weights), scale
        return torch.cat((weights, start[:, -1:]), 1), scale


def _nearest(weights: Tensor, scale: Tensor, width: str, _: Tensor) -> Tensor:
    return on_grid(weights, scale, width)


def rounded_to_nearest(model: nn.Module, widths: Mapping[str, str]) -> OnGrids:
    """A copy of `model` whose weights went to the nearest point of their grids."""
    found = copy.deepcopy(model).eval()
    scales = {name: _alone(affine(found, name), width) for name, width in widths.items()}
    return OnGrids(found, {name: scale for name, scale in scales.items() if scale is not None})


def put_on_grids(
    whole: nn.Module,
    widths: Mapping[str, str],
    ranges: Ranges,
    crops: CalibrationCrops,
    way: Way,
    *,
    batch: int = 8,
    positions: int = 20_000,
    limit: int = LIMIT,
    progress: Advance | None = None,
) -> OnGrids:
    """A copy of `whole`, a network in evaluation mode, with the weights of its layers on the grids of their `widths`.

    `ranges` are those of the inputs of all layers that are called, in the order of execution. Layers of float widths are fitted
    as well, once their input is no longer that of the whole network, where the way is learning. A way has to hold on a fifth of
    the crops that was held back, against weights rounded to nearest; what is taken is made with all of them. Layers that share
    parameters, or see more than `recover.moments.WIDEST` values at a time, are rounded to nearest. About `positions` output
    places are looked at per layer; at most `limit` bytes of what earlier layers gave are kept (`recover.passes`).
    """
    found = copy.deepcopy(whole).eval()
    able = [name for name in own_layers(found) if weight_matrix(affine(found, name)).shape[1] <= WIDEST]
    alone = {name: _alone(affine(found, name), widths[name]) for name in widths if name not in ranges or name not in able}
    names = [name for name in ranges if name in able]
    hooked = _hooked(found, widths, ranges)
    batches, sampling = batches_of(crops, batch), Sampling(max(1, positions // len(crops)))
    passes, done = Passes(found, limit), {}
    with frozen(whole), evaluating(found), torch.no_grad():
        for block in blocks(names, found, positions):
            targets = dense_outputs(whole, block, {}, batches, sampling)
            for name in block:
                module = affine(found, name)
                fit, held = equations(passes, module, name, targets.pop(name), batches, sampling)
                done[name] = _put(module, widths.get(name, "float32"), fit, held, way)
                if progress:
                    progress(len(done) / len(names), name)
    for handle in hooked:
        handle.remove()
    scales = {name: scale for name, scale in (alone | done).items() if scale is not None}
    return OnGrids(found, scales)


def _hooked(model: nn.Module, widths: Mapping[str, str], ranges: Ranges) -> list[RemovableHandle]:
    """The inputs of int8 layers are rounded from now on."""
    eighths = [name for name, width in widths.items() if width == "int8" and name in ranges]
    return [affine(model, name).register_forward_pre_hook(InEightBits.over(*ranges[name])) for name in eighths]


def _alone(module: Affine, width: str) -> Tensor | None:
    """Rounds the weights to nearest, in place; their scales, if they have some."""
    matrix = weight_matrix(module)
    scale = None
    if width in LEVELS:
        scale = largest(module, matrix[:, :-1], width)
        matrix[:, :-1] = on_grid(matrix[:, :-1], scale, width)
    elif width == "float16":
        matrix[:, :-1] = halved(matrix[:, :-1])
    module.weight.data = parameters_of(module, matrix)[0]
    return None if scale is None else along_outputs(module, scale)


def _put(module: Affine, width: str, fit: NormalEquations, held: NormalEquations, way: Way) -> Tensor | None:
    """Gives the layer its weights; their scales, if they have some."""
    if width == "float32" and (not way.learning or _unchanged(held, weight_matrix(module))):
        return None
    plain = Way(compensating=False, learning=False, correcting=way.correcting)
    residuals = [float(held.residual(one.weights(module, width, fit)[0]).sum()) for one in (plain, way)]
    kept = way if residuals[1] < residuals[0] else plain
    matrix, scale = kept.weights(module, width, fit.plus(held))
    if way.correcting or way.learning:
        set_matrix(module, matrix)
    else:
        module.weight.data = parameters_of(module, matrix)[0]
    return along_outputs(module, scale) if width in LEVELS else None


def _unchanged(held: NormalEquations, matrix: Tensor) -> bool:
    """Whether the layer gives what it should."""
    return bool(held.residual(matrix).sum().sqrt() <= _UNCHANGED * held.variance().sum().sqrt())
