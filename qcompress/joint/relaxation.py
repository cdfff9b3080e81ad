"""The choice of least energy at a price per byte: counts and widths, by elimination of the groups from the graph of layers.

With a price on bytes instead of a limit, a layer takes its best width whatever the others do, and its cost depends on the
counts at its two sides only. So groups can be eliminated one after the other (Bertele and Brioschi, 1972), which is exact: a
chain of layers is the dynamic program, a residual block hangs on the group of its sum. Where a layer sees more groups than a
table can hold, some are held fixed in turn, until nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.joint.table import State, Table

__all__ = ["Offered", "Relaxation", "everything"]

Floats = NDArray[np.float64]
Scope = tuple[int, ...]
Number = TypeVar("Number", np.float64, np.int64)
Factor = tuple[Scope, Floats]
Offered = tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]]
"""Places, ascending: per group in its offer, per layer in its widths."""

LARGEST = 1 << 20
"""Entries of the largest table."""

KEPT = 1 << 24
"""So many bytes counts of layers' tables are kept between prices."""

PASSES = 12
"""At most so often groups that are held fixed are looked at again; two or three are usual."""


def everything(table: Table) -> Offered:
    """All places."""
    return tuple(np.arange(len(own)) for own in table.offers), tuple(np.arange(len(own)) for own in table.widths)


class Relaxation:
    """Of the choices of `table`, as far as `offered` (places of every group's offer, of every layer's widths) has them."""

    def __init__(self, table: Table, offered: Offered | None = None) -> None:
        self.table = table
        self.offered, self.allowed = everything(table) if offered is None else offered
        self._lengths = [len(places) for places in self.offered]
        self._owners = [table.sizes.owners(place) for place in range(len(table.widths))]
        self._scopes: list[Scope] = [tuple(sorted({g for g, _ in (*ins, *outs)})) for ins, outs in self._owners]
        self._touching = [[place for place, scope in enumerate(self._scopes) if g in scope] for g in range(len(self._lengths))]
        self._plans: dict[int, tuple[list[int], list[int]]] = {}
        self._bytes: dict[tuple[int, Scope, Scope], Floats] = {}
        self._kept = 0

    @property
    def exact(self) -> bool:
        """Whether `solve` finds the least of what is offered: no group has to be held fixed."""
        return not self._plan(0)[1]

    def solve(self, price: float, start: State) -> State:
        """The choice of least energy + `price` bytes; from `start`, whose levels are offered, where that matters."""
        places = [int(np.searchsorted(own, level)) for own, level in zip(self.offered, start.levels.tolist(), strict=True)]
        value = np.inf
        for number in range(PASSES):
            order, held = self._plan(number)
            places = self._eliminate(price, order, places)
            for group in held:
                places[group] = int(self.alone(price, group, places).argmin())
            if not held:
                break
            before, value = value, self._value(price, places)
            if number > 1 and not value < before - self.table.tolerance:
                break
        levels = np.array([own[place] for own, place in zip(self.offered, places, strict=True)], np.int64)
        return State(levels, self.widths(price, levels))

    def _value(self, price: float, places: Sequence[int]) -> float:
        layers = sum(float(self._cost(price, layer, (), places)) for layer in range(len(self._scopes)))
        return layers + sum(float(self._energies(group)[place]) for group, place in enumerate(places))

    def _energies(self, group: int) -> Floats:
        return self.table.energies[group][self.offered[group]]

    def alone(self, price: float, group: int, places: Sequence[int]) -> Floats:
        """(labels,) what depends on the group, at each of the places offered; of the others as they are, places in those."""
        costs = [self._cost(price, layer, (group,), places) for layer in self._touching[group]]
        return np.asarray(self._energies(group) + sum(costs, np.zeros(self._lengths[group])))

    def _eliminate(self, price: float, order: Sequence[int], places: Sequence[int]) -> list[int]:
        """Places after the groups of `order` are set to their best, given all others."""
        free = set(order)
        factors: list[Factor] = [((group,), self._energies(group)) for group in order]
        for layer, scope in enumerate(self._scopes):
            if own := tuple(group for group in scope if group in free):
                factors.append((own, self._cost(price, layer, own, places)))
        steps: list[tuple[int, Scope, NDArray[np.intp]]] = []
        for group in order:
            mine = [factor for factor in factors if group in factor[0]]
            factors = [factor for factor in factors if group not in factor[0]]
            rest = tuple(sorted({g for scope, _ in mine for g in scope} - {group}))
            total: Floats = np.zeros(())
            for scope, values in mine:
                total = total + _spread(values, scope, (*rest, group))
            steps.append((group, rest, np.asarray(total.argmin(-1), np.intp)))
            if rest:
                factors.append((rest, total.min(-1)))
        found = list(places)
        for group, rest, best in reversed(steps):
            found[group] = int(best[tuple(found[g] for g in rest)])
        return found

    def _cost(self, price: float, layer: int, free: Scope, places: Sequence[int]) -> Floats:
        """Of a layer at its best width: over the places of the groups `free` of its scope, the others as they are."""
        losses, counts = self.table.losses[layer][self.allowed[layer]], self._bytes_of(layer, free, places)
        cost = losses[0] + price * counts[0]
        for loss, count in zip(losses[1:], counts[1:], strict=True):
            cost = np.minimum(cost, loss + price * count)
        return np.asarray(cost)

    def widths(self, price: float, levels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(layers,) the best place of every layer in its widths, for levels (G,)."""
        most, layers = max((len(own) for own in self.allowed), default=0), len(self.allowed)
        padded = np.array([[*own, *[own[-1]] * (most - len(own))] for own in map(np.ndarray.tolist, self.allowed)], np.int64)
        padded = padded.reshape(layers, most)
        rows = np.tile(self.table.counts(levels), (most, 1))
        counts = self.table.layer_bytes(rows, padded.T)
        losses = np.array([own[place] for own, place in zip(self.table.losses, padded, strict=True)]).reshape(layers, most)
        best = (losses.T + price * counts).argmin(0) if most else np.zeros(layers, np.intp)
        return np.asarray(padded[np.arange(layers), best])

    def _bytes_of(self, layer: int, free: Scope, places: Sequence[int]) -> Floats:
        """(widths, labels of the groups `free`, ...) bytes of a layer."""
        fixed = tuple(places[group] for group in self._scopes[layer] if group not in free)
        key = (layer, free, fixed)
        if key in self._bytes:
            return self._bytes[key]
        dense = self.table.sizes.layers[layer]
        inputs, outputs = np.array(dense.inputs), np.array(dense.outputs)
        for side, owners in enumerate(self._owners[layer]):
            for group, channels in owners:
                gone = channels * self.table.offers[group][self.offered[group]]
                less = _spread(gone, (group,), free) if group in free else gone[places[group]]
                inputs, outputs = (inputs - less, outputs) if side == 0 else (inputs, outputs - less)
        widths = self.table.widths[layer][self.allowed[layer]].tolist()
        per_width = [self.table.sizes.of_layer(layer, inputs, outputs, width) for width in widths]
        full = tuple(self._lengths[group] for group in free)
        counts = np.stack([np.broadcast_to(each, full) for each in per_width]).astype(np.float64)
        if self._kept + counts.size <= KEPT:
            self._bytes[key], self._kept = counts, self._kept + counts.size
        return counts

    def _plan(self, turn: int) -> tuple[list[int], list[int]]:
        """Groups in the order in which they are eliminated, and those that are held fixed: others in every turn.

        Always the group whose elimination makes the smallest table; where none fits, the one that most tables share is held.
        """
        if turn in self._plans:
            return self._plans[turn]
        order: list[int] = []
        held: list[int] = []
        rng = seeds.stream(turn, "relaxation")
        left = set(range(len(self._lengths)))
        scopes = [set(scope) for scope in self._scopes]
        while left:
            joined = {group: set().union({group}, *(scope for scope in scopes if group in scope)) for group in left}
            group = min(left, key=lambda g: (self._entries(joined[g]), g))
            if self._entries(joined[group]) <= LARGEST:
                order.append(group)
                scopes = [scope for scope in scopes if group not in scope] + [joined[group] - {group}]
            else:
                wide = max(scopes, key=self._entries)
                group = int(rng.choice(sorted(wide)))
                held.append(group)
                scopes = [scope - {group} for scope in scopes]
            left.remove(group)
        self._plans[turn] = order, held
        return order, held

    def _entries(self, scope: set[int]) -> int:
        return math.prod(self._lengths[group] for group in scope)


def _spread(values: NDArray[Number], scope: Scope, over: Scope) -> NDArray[Number]:
    """`values` over the groups `scope`, as an array that broadcasts over the groups `over`, which hold all of them."""
    order = sorted(range(len(scope)), key=lambda axis: over.index(scope[axis]))
    lengths: Mapping[int, int] = dict(zip(scope, values.shape, strict=True))
    return values.transpose(order).reshape([lengths.get(group, 1) for group in over])
