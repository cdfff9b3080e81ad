"""Least-squares repair: layer after layer is refitted to give the dense network's outputs from the slim network's inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcompress import seeds
from qcompress.data.images import CalibrationCrops
from qcompress.errors import UsageError
from qcompress.frozen import answer, evaluating, frozen
from qcompress.groups import Cut, Groups
from qcompress.progress import Advance
from qcompress.recover.design import Affine, output_rows, places_of, rows, set_matrix, weight_matrix
from qcompress.recover.outliers import outlier_weights
from qcompress.recover.passes import Passes, after
from qcompress.recover.ridge import NormalEquations
from qcompress.reuse import LIMIT

__all__ = ["LayerFigures", "refit"]

_UNCHANGED = 1e-6  # a relative residual below this is float32 rounding: the layer gives the dense outputs already
_TARGET_BYTES = 2**28  # dense outputs kept at a time; more layers than fit take another dense pass


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


@dataclass(frozen=True)
class _Batch:
    """Some crops, all to be fitted to or all held back."""

    number: int
    inputs: Tensor
    held: bool


@dataclass(frozen=True)
class _Sampling:
    """Which output places of a layer are looked at: the same in the dense and in the slim network."""

    per_image: int

    def places(self, layer: str, batch: int, call: int, total: int) -> Tensor:
        """(P,) places among `total`, without repetition."""
        if total <= self.per_image:
            return torch.arange(total)
        generator = torch.Generator().manual_seed(seeds.integer(0, f"recover/{layer}/{batch}/{call}"))
        return torch.randperm(total, generator=generator)[: self.per_image]


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
    batches = _batches(crops, batch)
    sampling = _Sampling(max(1, positions // len(crops)))
    names = _refittable(slim, groups)
    passes = Passes(slim, limit)
    figures = []
    with frozen(dense), evaluating(slim), torch.no_grad():
        for block in _blocks(names, slim, positions):
            targets = _dense_outputs(dense, block, cuts, batches, sampling)
            for name in block:
                figures.append(_refit_layer(passes, _affine(slim, name), name, targets.pop(name), batches, sampling, ridge))
                if progress:
                    progress(len(figures) / len(names), name)
    return tuple(figure for figure in figures if figure is not None)


def _refittable(slim: nn.Module, groups: Groups) -> list[str]:
    """The layers that are a matrix and whose parameters are their own, in order of execution."""
    names = [layer.name for layer in groups.layers if layer.kind in ("conv", "conv_transpose", "depthwise", "linear")]
    owners = Counter(id(p) for module in slim.modules() for p in module._parameters.values() if p is not None)
    return [name for name in names if all(owners[id(p)] == 1 for p in _affine(slim, name).parameters(recurse=False))]


def _batches(crops: CalibrationCrops, size: int) -> list[_Batch]:
    """The crops in batches; every fifth crop (of fewer than five: the last) is held back."""
    every = min(5, len(crops))
    held = torch.arange(len(crops)) % every == every - 1
    parts = [(part, flag) for flag in (False, True) for part in torch.split(torch.nonzero(held == flag)[:, 0], size)]
    return [_Batch(number, crops.inputs[part], flag) for number, (part, flag) in enumerate(parts)]


def _blocks(names: Sequence[str], slim: nn.Module, positions: int) -> Iterator[list[str]]:
    """`names` in runs whose dense outputs fit in memory together."""
    block: list[str] = []
    used = 0
    for name in names:
        need = 4 * positions * weight_matrix(_affine(slim, name))[:, 0].numel()
        if block and used + need > _TARGET_BYTES:
            yield block
            block, used = [], 0
        block.append(name)
        used += need
    if block:
        yield block


def _affine(model: nn.Module, name: str) -> Affine:
    module = model.get_submodule(name)
    assert isinstance(module, Affine)
    return module


def _dense_outputs(
    dense: nn.Module, names: Sequence[str], cuts: Mapping[str, Cut], batches: Sequence[_Batch], sampling: _Sampling
) -> dict[str, list[list[Tensor]]]:
    """Per layer, batch and call: (rows, kept outputs) of the dense network at the sampled places."""
    targets: dict[str, list[list[Tensor]]] = {name: [] for name in names}
    kept = {name: cuts.get(name, Cut()).kept_out for name in names}

    def see(name: str, _: Tensor, output: Tensor) -> None:
        calls = targets[name][-1]
        module = _affine(dense, name)
        places = sampling.places(name, len(targets[name]) - 1, len(calls), places_of(module, output))
        found = output_rows(module, output, places.to(output.device))
        keep = kept[name]
        calls.append(found if keep is None else found[:, list(keep)])

    with after(dense, names, see):
        for part in batches:
            for calls in targets.values():
                calls.append([])
            answer(dense, part.inputs)
    return targets


def _equations(
    passes: Passes, module: Affine, name: str, targets: list[list[Tensor]], batches: Sequence[_Batch], sampling: _Sampling
) -> tuple[NormalEquations, NormalEquations]:
    """The normal equations of one layer over the crops fitted to, and over those held back."""
    fit, held = NormalEquations(), NormalEquations()
    for part, wanted, weights in zip(batches, targets, _weights(targets, batches), strict=True):
        if wanted:
            _collect(passes, module, name, part, wanted, weights, sampling, held if part.held else fit)
    return fit, held


def _collect(
    passes: Passes,
    module: Affine,
    name: str,
    part: _Batch,
    targets: list[Tensor],
    weights: Tensor,
    sampling: _Sampling,
    into: NormalEquations,
) -> None:
    """Add the layer's inputs on one batch and `targets` (one per call) to `into`."""

    def look(call: int, x: Tensor, output: Tensor) -> Tensor:
        places = sampling.places(name, part.number, call, places_of(module, output))
        return rows(module, x, output, places.to(output.device))

    for seen, y in zip(passes(name, part.number, part.inputs, len(targets), look), targets, strict=True):
        weight = weights.repeat_interleave(len(y) // len(weights))
        into.add(seen, y.reshape(len(y), len(seen), -1).transpose(0, 1), weight)


def _weights(targets: list[list[Tensor]], batches: Sequence[_Batch]) -> list[Tensor]:
    """Per batch: (images,) how much each image counts, see `outlier_weights`; `targets` are (rows, outputs) per call."""
    energies = []
    for part, calls in zip(batches, targets, strict=True):
        energy = torch.zeros(len(part.inputs), dtype=torch.float64, device=part.inputs.device)
        for y in calls:
            energy += y.reshape(len(energy), -1, y.shape[1]).double().var(1, correction=0).sum(1)
        energies.append(energy)
    return list(torch.split(outlier_weights(torch.cat(energies)), [len(energy) for energy in energies]))


def _refit_layer(
    passes: Passes,
    module: Affine,
    name: str,
    targets: list[list[Tensor]],
    batches: Sequence[_Batch],
    sampling: _Sampling,
    ridge: float,
) -> LayerFigures | None:
    """Refit one layer in place; None where there is nothing to repair."""
    fit, held = _equations(passes, module, name, targets, batches, sampling)
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
