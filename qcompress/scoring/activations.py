"""How alike the units of a group are, and what their channels are worth on average, at the inputs of the layers they feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops
from qcompress.frozen import answer, frozen
from qcompress.groups import Group, Groups, Member
from qcompress.masks import channel_axis, consumer_units

__all__ = ["Activations", "Moments", "batch_moments", "combine", "measure_activations", "mean_inputs"]

_CONSTANT = 1e-12  # a variance below this share of the mean square is rounding: float32 carries 1e-14 of it


@dataclass(frozen=True, eq=False)
class Activations:
    """What the consumers see of the units on the calibration crops.

    similarity  one (m, m) array per group, -1..1: centred cosine of the units' maps, over images, places and consumers; 1 on
                the diagonal, 0 between a constant map and any other
    means       (input channels,) per consumer layer, on the crops' device: the typical mean of each of its input channels, see
                `mean_inputs`
    """

    similarity: tuple[NDArray[np.float64], ...]
    means: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Moments:
    """What one batch adds, or several: sums that `combine` puts together. All float64.

    rows      places seen, one number for each side "in" of each group, in order
    totals    (m, K) sums over the places of the K input channels of each of the m units, for each of them
    products  (m, m) sums over the places and the K channels of the products of two units' maps
    means     (images and calls, input channels) means over the places, per consumer layer
    """

    rows: tuple[int, ...]
    totals: tuple[NDArray[np.float64], ...]
    products: tuple[NDArray[np.float64], ...]
    means: dict[str, NDArray[np.float64]]


class _Sums:
    """Sums of one group's maps at one consumer: `channels` is (m, K), the K input channels of each unit."""

    def __init__(self, channels: NDArray[np.intp], device: torch.device) -> None:
        self.channels = torch.from_numpy(channels).to(device)
        self.rows = 0
        self.total = torch.zeros(channels.shape, dtype=torch.float64, device=device)
        self.products = torch.zeros(len(channels), len(channels), dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Take in `rows` (P, input channels), float64."""
        maps = rows[:, self.channels]  # (P, m, K)
        self.rows += len(rows)
        self.total += maps.sum(0)
        flat = maps.transpose(1, 2).reshape(-1, maps.shape[1])
        self.products += flat.T @ flat


def batch_moments(model: nn.Module, groups: Groups, inputs: Tensor) -> Moments:
    """The moments of one batch of inputs, from one forward pass. The model is left as it was."""
    sums = [_Sums(np.asarray(member.channels, np.intp), inputs.device) for member in _consumers(groups)]
    by_layer: dict[str, list[_Sums]] = {}
    for member, one in zip(_consumers(groups), sums, strict=True):
        by_layer.setdefault(member.layer, []).append(one)
    means: dict[str, list[Tensor]] = {name: [] for name in consumer_units(groups)}

    def see(name: str, x: Tensor) -> None:
        means[name].append(x.mean(1))
        for one in by_layer[name]:
            one.add(x.flatten(0, 1))

    with frozen(model), torch.no_grad(), _listening(model, by_layer, see):
        answer(model, inputs)
    return Moments(
        tuple(one.rows for one in sums),
        tuple(one.total.cpu().numpy() for one in sums),
        tuple(one.products.cpu().numpy() for one in sums),
        {name: torch.cat(parts).cpu().numpy() for name, parts in means.items()},
    )


def combine(groups: Groups, batches: Iterable[Moments]) -> Activations:
    """Similarities and means from the moments of the batches, summed in their order. Memory does not grow with their number.

    A group with several consumers has the mean of its covariances there.
    """
    members = _consumers(groups)
    rows = [0] * len(members)
    totals = [np.zeros((len(member.channels), len(member.channels[0]))) for member in members]
    products = [np.zeros((len(member.channels),) * 2) for member in members]
    means: dict[str, list[NDArray[np.float64]]] = {name: [] for name in consumer_units(groups)}
    for batch in batches:
        for place in range(len(members)):
            rows[place] += batch.rows[place]
            totals[place] += batch.totals[place]
            products[place] += batch.products[place]
        for name, part in batch.means.items():
            means[name].append(part)
    covariances = iter([_covariance(*sums) for sums in zip(rows, totals, products, strict=True)])
    similarity = tuple(_cosine(group, [next(covariances) for _ in group.side("in")]) for group in groups.groups)
    typical = {name: _typical(torch.from_numpy(np.concatenate(parts))) for name, parts in means.items()}
    return Activations(similarity, typical)


def measure_activations(model: nn.Module, groups: Groups, crops: CalibrationCrops, batch: int = 8) -> Activations:
    """Similarities and means in one pass over `crops`. The model is left as it was."""
    starts = range(0, len(crops), batch)
    return combine(groups, (batch_moments(model, groups, crops.inputs[start : start + batch]) for start in starts))


def mean_inputs(model: nn.Module, layers: Iterable[str], crops: CalibrationCrops, batch: int = 8) -> dict[str, Tensor]:
    """(input channels,) float64 per layer: the median over crops (and calls) of the mean of each input channel, in one pass.

    The median, because in trained networks a few images can excite some channels a thousand times more than all others do; the
    plain mean then describes those images, and a repair by it costs every ordinary image decibels. The model is left as it was.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}
    with frozen(model), torch.no_grad(), _listening(model, rows, lambda name, x: rows[name].append(x.mean(1))):
        for start in range(0, len(crops), batch):
            answer(model, crops.inputs[start : start + batch])
    return {name: _typical(torch.cat(parts)) for name, parts in rows.items()}


def _consumers(groups: Groups) -> list[Member]:
    """The sides "in" of all groups, group by group."""
    return [member for group in groups.groups for member in group.side("in")]


def _covariance(
    rows: int, total: NDArray[np.float64], products: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(m, m) covariance and (m,) mean square, both summed over the K channels."""
    mean = total / rows
    square = products / rows
    return square - mean @ mean.T, square.diagonal()


def _typical(means: Tensor) -> Tensor:
    return means.quantile(0.5, 0)


@contextmanager
def _listening(model: nn.Module, layers: Iterable[str], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    def listener(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].movedim(channel_axis(module), -1)
            see(name, x.reshape(len(x), -1, x.shape[-1]).double())

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(listener(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cosine(group: Group, covariances: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """(m, m) correlations from the covariances at each consumer; the identity for a group without consumers."""
    if not covariances:
        return np.eye(group.size)
    covariance = np.mean([c for c, _ in covariances], axis=0)
    square = np.mean([s for _, s in covariances], axis=0)
    variance = np.diagonal(covariance)
    varies = variance > _CONSTANT * square
    deviation = np.sqrt(np.where(varies, variance, 1.0))
    cosine = np.where(np.outer(varies, varies), covariance / np.outer(deviation, deviation), 0.0)
    np.fill_diagonal(cosine, 1.0)
    result: NDArray[np.float64] = np.clip((cosine + cosine.T) / 2, -1.0, 1.0)
    return result
