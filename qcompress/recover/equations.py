"""What a layer of one network sees, against what the same layer of another one gives: as normal equations, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcompress import seeds
from qcompress.data.images import CalibrationCrops
from qcompress.frozen import answer
from qcompress.groups import Cut
from qcompress.recover.design import Affine, output_rows, places_of, rows, weight_matrix
from qcompress.recover.moments import affine
from qcompress.recover.outliers import outlier_weights
from qcompress.recover.passes import Passes, after
from qcompress.recover.ridge import NormalEquations

__all__ = ["Batch", "Sampling", "batches_of", "blocks", "dense_outputs", "equations"]

_TARGET_BYTES = 2**28  # dense outputs kept at a time; more layers than fit take another dense pass


@dataclass(frozen=True)
class Batch:
    """Some crops, all to be fitted to or all held back."""

    number: int
    inputs: Tensor
    held: bool


@dataclass(frozen=True)
class Sampling:
    """Which output places of a layer are looked at: the same in the dense and in the slim network."""

    per_image: int

    def places(self, layer: str, batch: int, call: int, total: int) -> Tensor:
        """(P,) places among `total`, without repetition."""
        if total <= self.per_image:
            return torch.arange(total)
        generator = torch.Generator().manual_seed(seeds.integer(0, f"recover/{layer}/{batch}/{call}"))
        return torch.randperm(total, generator=generator)[: self.per_image]


def batches_of(crops: CalibrationCrops, size: int) -> list[Batch]:
    """The crops in batches; every fifth crop (of fewer than five: the last) is held back."""
    every = min(5, len(crops))
    held = torch.arange(len(crops)) % every == every - 1
    parts = [(part, flag) for flag in (False, True) for part in torch.split(torch.nonzero(held == flag)[:, 0], size)]
    return [Batch(number, crops.inputs[part], flag) for number, (part, flag) in enumerate(parts)]


def blocks(names: Sequence[str], slim: nn.Module, positions: int) -> Iterator[list[str]]:
    """`names` in runs whose dense outputs fit in memory together."""
    block: list[str] = []
    used = 0
    for name in names:
        need = 4 * positions * weight_matrix(affine(slim, name))[:, 0].numel()
        if block and used + need > _TARGET_BYTES:
            yield block
            block, used = [], 0
        block.append(name)
        used += need
    if block:
        yield block


def dense_outputs(
    dense: nn.Module, names: Sequence[str], cuts: Mapping[str, Cut], batches: Sequence[Batch], sampling: Sampling
) -> dict[str, list[list[Tensor]]]:
    """Per layer, batch and call: (rows, kept outputs) of the dense network at the sampled places."""
    targets: dict[str, list[list[Tensor]]] = {name: [] for name in names}
    kept = {name: cuts.get(name, Cut()).kept_out for name in names}

    def see(name: str, _: Tensor, output: Tensor) -> None:
        calls = targets[name][-1]
        module = affine(dense, name)
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


def equations(
    passes: Passes, module: Affine, name: str, targets: list[list[Tensor]], batches: Sequence[Batch], sampling: Sampling
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
    part: Batch,
    targets: list[Tensor],
    weights: Tensor,
    sampling: Sampling,
    into: NormalEquations,
) -> None:
    """Add the layer's inputs on one batch and `targets` (one per call) to `into`."""

    def look(call: int, x: Tensor, output: Tensor) -> Tensor:
        places = sampling.places(name, part.number, call, places_of(module, output))
        return rows(module, x, output, places.to(output.device))

    for seen, y in zip(passes(name, part.number, part.inputs, len(targets), look), targets, strict=True):
        weight = weights.repeat_interleave(len(y) // len(weights))
        into.add(seen, y.reshape(len(y), len(seen), -1).transpose(0, 1), weight)


def _weights(targets: list[list[Tensor]], batches: Sequence[Batch]) -> list[Tensor]:
    """Per batch: (images,) how much each image counts, see `outlier_weights`; `targets` are (rows, outputs) per call."""
    energies = []
    for part, calls in zip(batches, targets, strict=True):
        energy = torch.zeros(len(part.inputs), dtype=torch.float64, device=part.inputs.device)
        for y in calls:
            energy += y.reshape(len(energy), -1, y.shape[1]).double().var(1, correction=0).sum(1)
        energies.append(energy)
    return list(torch.split(outlier_weights(torch.cat(energies)), [len(energy) for energy in energies]))
