"""Random least-squares problems for the tests of reconstruction, with an oracle that refits explicitly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qcompress.reconstruction.parts import Part
from qcompress.selection import UnitSpace

__all__ = ["Consumer", "LeastSquares", "random_problem"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Consumer:
    """Rows (N, D) with 1 in the last column, dense weights (D, outputs), the root of what an error costs (outputs, outputs),
    the ridge on each column, and the columns of each unit that it sees, by group.
    """

    rows: Array
    weights: Array
    root: Array
    ridge: Array
    columns: dict[int, NDArray[np.intp]]

    @property
    def part(self) -> Part:
        """As the code under test has it."""
        second = self.rows.T @ self.rows / len(self.rows) + np.diag(self.ridge)
        inverse = np.linalg.inv(second)
        columns = {group: torch.from_numpy(own) for group, own in self.columns.items()}
        inverse = (inverse + inverse.T) / 2
        return Part("layer", torch.from_numpy(inverse), torch.from_numpy(self.weights @ self.root), columns)

    def refitted(self, gone: list[int]) -> float:
        """min over W, zero in the rows `gone`, of mean |X (W - W0) root|^2 + |W - W0|^2 by the ridge, by numpy's lstsq."""
        kept = [column for column in range(len(self.weights)) if column not in gone]
        scaled = np.concatenate((self.rows / np.sqrt(len(self.rows)), np.diag(np.sqrt(self.ridge))))
        wanted = scaled @ self.weights @ self.root
        found = np.linalg.lstsq(scaled[:, kept], wanted, rcond=None)[0]
        return float(np.square(wanted - scaled[:, kept] @ found).sum())


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Groups of units, and who sees them."""

    space: UnitSpace
    consumers: tuple[Consumer, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of all consumers."""
        return tuple(consumer.part for consumer in self.consumers)

    def seeing(self, group: int) -> list[Part]:
        """The parts that see the group."""
        return [part for part in self.parts if group in part.columns]

    def refitted(self, x: NDArray[np.bool_]) -> float:
        """What all consumers lose without the units x (n,), each refitted."""
        total = 0.0
        for consumer in self.consumers:
            gone = [
                int(column)
                for group, own in consumer.columns.items()
                for unit in np.flatnonzero(x[self.space.spans[group]])
                for column in own[unit]
            ]
            total += consumer.refitted(gone)
        return total


def random_problem(
    seed: int,
    sizes: tuple[int, ...],
    width: int,
    *,
    rows: int = 60,
    ridge: float = 1e-3,
    twins: tuple[int, int] | None = None,
) -> LeastSquares:
    """Each group has a consumer of its own; all but the last have one more, in two divisions, that sees all of them.

    Units own `width` columns. The columns of the `twins`, units of the first group, are the same.
    """
    rng = np.random.default_rng(seed)
    space = UnitSpace.of([(f"group{number}", size) for number, size in enumerate(sizes)], 0)
    seen = [{number: size} for number, size in enumerate(sizes)]
    seen += [dict(enumerate(sizes))] * (2 if len(sizes) > 1 else 0)
    consumers = [_consumer(rng, groups, width, rows, ridge, twins) for groups in seen]
    return LeastSquares(space, tuple(consumers))


def _consumer(
    rng: np.random.Generator, groups: dict[int, int], width: int, rows: int, ridge: float, twins: tuple[int, int] | None
) -> Consumer:
    inputs, outputs = width * sum(groups.values()), 3
    order = rng.permutation(inputs)
    columns, start = {}, 0
    for group, size in groups.items():
        columns[group] = order[start : start + width * size].reshape(size, width)
        start += width * size
    x = rng.normal(size=(rows, inputs)) @ rng.normal(size=(inputs, inputs)) / np.sqrt(inputs) + rng.normal(size=inputs)
    if twins is not None and 0 in groups:
        x[:, columns[0][twins[1]]] = x[:, columns[0][twins[0]]]
    return Consumer(
        np.concatenate((x, np.ones((rows, 1))), 1),
        rng.normal(size=(inputs + 1, outputs)),
        rng.normal(size=(outputs, outputs)),
        np.append(np.full(inputs, ridge), 0.0),
        columns,
    )
