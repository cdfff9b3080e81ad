"""What a pruned network takes, by a latency table: layers at the widths that they keep, the rest by its share of channels.

    latency(counts) = a * sum over layers of t(kept in, kept out) + b * sum over operations of t * share kept + c

t is what a layer took between two light convolutions, less what those take. What is wrong about how these two are told apart
cancels along a chain, where what one layer returns the next one is given. Widths are rounded up to what the runtime computes,
and between timed widths t is linear in each. a, b and c fit the sums to the whole networks that were timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from qcompress.errors import InputError
from qcompress.groups import Groups, Layer, in_blocks
from qcompress.latency_table import LatencyTable, NetworkTimes, OperationTimes, ShapeTimes

__all__ = ["LatencyModel", "computed"]

PICOSECONDS = 1000  # in a nanosecond: costs are whole picoseconds
LEAST_SHARE = 0.02  # of the time of its model that a layer has at least: below it the subtraction is noise
FEWEST = 3  # whole networks that more than one number can be fitted to
ALIKE = 0.05  # relative error that operations and layers off by 100 % from one another are worth

Floats = NDArray[np.float64]


def computed(channels: int, block: int, dense: int) -> int:
    """Channels that a runtime with this block computes for `channels` out of `dense`.

    >>> [computed(channels, 16, 60) for channels in (1, 5, 9, 17, 49)]
    [4, 8, 16, 32, 60]
    """
    part = block
    while part % 2 == 0 and part // 2 >= max(channels, 4):
        part //= 2
    return min(dense, in_blocks(channels, part))


@dataclass(frozen=True, eq=False)
class _Surface:
    """Picoseconds of a layer at its timed widths, (I, O), growing with both; of whole divisions (1, O)."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    values: Floats

    def at(self, inputs: int, outputs: int) -> float:
        """Linear between timed widths, constant beyond."""
        rows = [float(np.interp(outputs, self.outputs, row)) for row in self.values]
        return float(np.interp(inputs, self.inputs, rows))

    @property
    def slope(self) -> float:
        """The most per channel, or pair of channels, that is nowhere above the surface."""
        widths = np.ones(len(self.inputs)) if len(self.inputs) == 1 else np.array(self.inputs, float)
        return float((self.values / np.outer(widths, self.outputs)).min())


class LatencyModel:
    """Costs as `budgets.Cost`, in picoseconds: exact by this model, and growing with what is kept.

    Raises InputError for a table of another network than that of the groups.
    """

    def __init__(self, table: LatencyTable, groups: Groups) -> None:
        self.table, self.groups = table, groups
        self.layers = {layer.name: layer for layer in groups.layers}
        _check(table, groups, self.layers)
        self._surfaces = [_surface(shape, table) for shape in table.shapes]
        self._operations = [(PICOSECONDS * _alone(found, table), found.sources) for found in table.operations]
        self._known: dict[tuple[int, int, int], float] = {}

    def __call__(self, counts: Mapping[str, int]) -> int:
        """Picoseconds with so many units pruned per group."""
        layers, operations, rest = self.fit
        of_layers, of_operations = self._sums(counts)
        return round(layers * of_layers + operations * of_operations + rest)

    def additive(self, counts: Mapping[str, int]) -> int:
        """Never above the cost, a sum of products of what is kept: see `budgets.CostBudget.additive`."""
        a, b, _ = self.fit
        total = 0
        for timed in self.table.layers:
            surface, layer = self._surfaces[timed.shape], self.layers[timed.name]
            slope = int(a * surface.slope)
            kept = self.groups.kept_channels(layer, "out", counts)
            total += slope * kept * (self.groups.kept_channels(layer, "in", counts) if len(surface.inputs) > 1 else 1)
        for picoseconds, sources in self._operations:
            dense = sum(self.layers[name].outputs for name in sources)
            kept = sum(self.groups.kept_channels(self.layers[name], "out", counts) for name in sources)
            total += int(b * picoseconds / dense) * kept if dense else 0
        return total

    @cached_property
    def fit(self) -> tuple[float, float, float]:
        """(a, b, c), c in picoseconds: of least relative squares over the whole networks, none below 0.

        Where operations take next to nothing, b is a.
        """
        taken = PICOSECONDS * np.array([self.table.ns(network.job) for network in self.networks])
        sums = np.array([self._sums(network.pruned) for network in self.networks])
        if not sums.sum(1).min() > 0:  # nothing but the whole is known
            return 0.0, 0.0, float(taken[0])
        if len(taken) < FEWEST:
            scale = float((sums.sum(1) / taken).sum() / ((sums.sum(1) / taken) ** 2).sum())
            return scale, scale, 0.0
        columns = np.column_stack((sums, np.full(len(taken), taken.min()))) / taken[:, None]
        rows = np.vstack((columns, (ALIKE, -ALIKE, 0.0)))
        (a, b, share), _ = nnls(rows, np.append(np.ones(len(taken)), 0.0))
        return float(a), float(b), float(share * taken.min())

    @property
    def networks(self) -> list[NetworkTimes]:
        """Those that were timed and have groups of ours only: with another --ignore there may be fewer."""
        sizes = dict(zip(self.groups.space.groups, self.groups.space.sizes, strict=True))
        return [
            found
            for found in self.table.networks
            if self.table.times_ns[found.job] is not None and all(k < sizes.get(name, 0) for name, k in found.pruned.items())
        ]

    def _sums(self, counts: Mapping[str, int]) -> tuple[float, float]:
        """Of layers, and of operations."""
        layers = sum(self._layer(timed.shape, self.layers[timed.name], counts) for timed in self.table.layers)
        operations = 0.0
        for picoseconds, sources in self._operations:
            dense = sum(self.layers[name].outputs for name in sources)
            kept = sum(self._width(self.layers[name], counts) for name in sources)
            operations += picoseconds * kept / dense if dense else picoseconds
        return layers, operations

    def _layer(self, shape: int, layer: Layer, counts: Mapping[str, int]) -> float:
        block = self.table.block
        inputs = computed(self.groups.kept_channels(layer, "in", counts), block, layer.inputs)
        key = shape, inputs, self._width(layer, counts)
        if key not in self._known:
            self._known[key] = self._surfaces[shape].at(*key[1:])
        return self._known[key]

    def _width(self, layer: Layer, counts: Mapping[str, int]) -> int:
        return computed(self.groups.kept_channels(layer, "out", counts), self.table.block, layer.outputs)


def _check(table: LatencyTable, groups: Groups, layers: Mapping[str, Layer]) -> None:
    """Raises InputError unless the table is of this network, at this size."""
    hint = "make one for this checkpoint and --size with qcompress profile"
    if table.example_shape != groups.example_shape:
        sizes = ("x".join(map(str, shape)) for shape in (table.example_shape, groups.example_shape))
        raise InputError("the latency table is of an input {}, this run's is {}".format(*sizes), hint)
    for timed in table.layers:
        layer = layers.get(timed.name)
        if layer is None or (layer.inputs, layer.outputs) != (timed.inputs, timed.outputs):
            raise InputError(
                f"the latency table is of another network: its layer {timed.name} is {timed.inputs} to {timed.outputs}", hint
            )
    strange = next((name for found in table.operations for name in found.sources if name not in layers), None)
    if strange is not None:
        raise InputError(f"the latency table is of another network: there is no layer {strange}", hint)


def _surface(shape: ShapeTimes, table: LatencyTable) -> _Surface:
    times = np.array([[table.ns(job) for job in row] for row in shape.jobs])
    around = np.zeros_like(times)
    if shape.before:
        before = np.array([table.light(place)[0] for place in shape.before])
        around += before[None, :] if shape.divided else before[:, None]
    if shape.after:
        around += np.array([table.light(place)[1] for place in shape.after])[None, :]
    alone = PICOSECONDS * np.maximum(times - around, LEAST_SHARE * times)
    for axis in (0, 1):  # a part of a block may take longer than a block: fewer channels are not to cost more
        alone = np.flip(np.minimum.accumulate(np.flip(alone, axis), axis), axis)
    return _Surface(shape.inputs, shape.outputs, alone)


def _alone(found: OperationTimes, table: LatencyTable) -> float:
    """Nanoseconds of an operation by itself; none of one that did not run by itself, or vanishes into its neighbours."""
    if table.times_ns[found.job] is None:
        return 0.0
    around = sum(table.light(place)[0] for place in found.before) + sum(table.light(place)[1] for place in found.after)
    return max(table.ns(found.job) - around, 0.0)
