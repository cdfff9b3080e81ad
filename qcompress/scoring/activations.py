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
from qcompress.groups import Group, Groups
from qcompress.masks import channel_axis, consumer_units
from qcompress.progress import Advance

__all__ = ["Activations", "measure_activations", "mean_inputs"]

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


class _Moments:
    """Streamed sums of one group's maps at one consumer: `channels` is (m, K), the K input channels of each unit."""

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

    def covariance(self) -> tuple[Tensor, Tensor]:
        """(m, m) covariance and (m,) mean square, both summed over the K channels."""
        mean = self.total / self.rows
        square = self.products / self.rows
        return square - mean @ mean.T, square.diagonal()


def measure_activations(
    model: nn.Module,
    groups: Groups,
    crops: CalibrationCrops,
    batch: int = 8,
    progress: Advance | None = None,
) -> Activations:
    """Similarities and means in one pass over `crops`; memory does not grow with their number. The model is left as it was.

    A group with several consumers has the mean of its covariances there. `progress` is told the share done, 0..1.
    """
    moments = [
        [(member.layer, _Moments(np.asarray(member.channels, np.intp), crops.inputs.device)) for member in group.side("in")]
        for group in groups.groups
    ]
    by_layer: dict[str, list[_Moments]] = {}
    for layer, moment in (pair for pairs in moments for pair in pairs):
        by_layer.setdefault(layer, []).append(moment)
    means: dict[str, list[Tensor]] = {name: [] for name in consumer_units(groups)}

    def see(name: str, x: Tensor) -> None:
        means[name].append(x.mean(1))
        for moment in by_layer[name]:
            moment.add(x.flatten(0, 1))

    _stream(model, by_layer, crops, batch, see, progress)
    similarity = tuple(
        _cosine(group, [moment.covariance() for _, moment in pairs])
        for group, pairs in zip(groups.groups, moments, strict=True)
    )
    return Activations(similarity, {name: _typical(rows) for name, rows in means.items()})


def mean_inputs(model: nn.Module, layers: Iterable[str], crops: CalibrationCrops, batch: int = 8) -> dict[str, Tensor]:
    """(input channels,) float64 per layer: the median over crops (and calls) of the mean of each input channel, in one pass.

    The median, because in trained networks a few images can excite some channels a thousand times more than all others do; the
    plain mean then describes those images, and a repair by it costs every ordinary image decibels. The model is left as it was.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}
    _stream(model, rows, crops, batch, lambda name, x: rows[name].append(x.mean(1)), None)
    return {name: _typical(parts) for name, parts in rows.items()}


def _typical(means: list[Tensor]) -> Tensor:
    return torch.cat(means).quantile(0.5, 0)


def _stream(
    model: nn.Module,
    layers: Iterable[str],
    crops: CalibrationCrops,
    batch: int,
    see: Callable[[str, Tensor], None],
    progress: Advance | None,
) -> None:
    """Run `crops` through `model` and show `see` every input of each of `layers`, as (batch, places, channels) in float64."""
    with frozen(model), torch.no_grad(), _listening(model, layers, see):
        for start in range(0, len(crops), batch):
            answer(model, crops.inputs[start : start + batch])
            if progress:
                progress(min(start + batch, len(crops)) / len(crops))


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


def _cosine(group: Group, covariances: list[tuple[Tensor, Tensor]]) -> NDArray[np.float64]:
    """(m, m) correlations from the covariances at each consumer; the identity for a group without consumers."""
    if not covariances:
        return np.eye(group.size)
    covariance = torch.stack([c for c, _ in covariances]).mean(0).cpu().numpy()
    square = torch.stack([s for _, s in covariances]).mean(0).cpu().numpy()
    variance = np.diagonal(covariance)
    varies = variance > _CONSTANT * square
    deviation = np.sqrt(np.where(varies, variance, 1.0))
    cosine = np.where(np.outer(varies, varies), covariance / np.outer(deviation, deviation), 0.0)
    np.fill_diagonal(cosine, 1.0)
    result: NDArray[np.float64] = np.clip((cosine + cosine.T) / 2, -1.0, 1.0)
    return result
