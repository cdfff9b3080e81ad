"""What an answer of the `aqc` model is as a file, and how it is brought to a size exactly.

An answer leaves b_n bits to the weights of layer n. A file has few widths, so a layer takes the narrowest of those allowed that
has at least b_n bits. From there, steps of the least loss per byte lead to the size, and what then fits besides is taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qcompress.alignment import Alignment
from qcompress.errors import UsageError
from qcompress.joint.aqc import AqcModel
from qcompress.joint.greedy import greedy
from qcompress.joint.sizes import Sizes
from qcompress.joint.table import State, Table
from qcompress.widths import BITS, WIDTHS

__all__ = ["AqcFiles"]

Row = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AqcFiles:
    """Files of the model's network with at most `most` bytes, at counts that `alignment` allows, of the `widths` allowed.

    Layers that the model does not have stay float32. Places of widths are those in what a layer is offered, per layer of
    `sizes.layers`. Raises UsageError where no file fits.
    """

    model: AqcModel
    sizes: Sizes
    widths: tuple[str, ...]
    alignment: Alignment
    most: int

    def __post_init__(self) -> None:
        if (least := self.whole.bytes_of(_end(self.whole))) > self.most:
            raise UsageError(
                f"a file of {self.most:,} bytes cannot be reached: floors and widths allow {least:,} at least",
                "ask for a larger file, or allow narrower widths with --bits",
            )

    @cached_property
    def whole(self) -> Table:
        """The choices, units leaving one after the other from the dense network."""
        return self._through(np.zeros(len(self.model.groups.space), bool))[0]

    @cached_property
    def dense(self) -> int:
        """Bytes with nothing pruned, all layers at their widest."""
        return self.whole.bytes_of(self.whole.start)

    def within_floors(self, row: Row) -> Row:
        """With units restored where a group would fall below its floor, those of the largest weights first."""
        row, space = row.copy(), self.model.groups.space
        held = self.model.magnitude.sum(0)
        for span, size, floor in zip(space.spans, space.sizes, space.floors, strict=True):
            pruned = span.start + np.flatnonzero(row[span])
            over = max(len(pruned) - (size - floor), 0)
            row[pruned[np.argsort(-held[pruned], kind="stable")[:over]]] = False
        return row

    def mapped(self, removed: NDArray[np.float64]) -> Ints:
        """(layers,) places of the widths, for (layers of the model,) bits that go."""
        places = np.zeros(len(self.sizes.layers), np.int64)
        left = self.model.settings.b_max - removed
        places[self._places] = np.maximum((self._bits[None] >= left[:, None]).sum(1) - 1, 0)
        return places

    def bytes(self, row: Row, places: Ints) -> int:
        """Of the file."""
        counts = np.asarray(self.model.groups.space.counts(row), np.int64)
        widths = [own[place] for own, place in zip(self.whole.widths, places, strict=True)]
        return int(self.sizes.totals(counts[None], np.array([widths]))[0])

    def pruning(self, row: Row) -> float:
        """L_p."""
        return float(self.model.pruning(row))

    def quantisation(self, places: Ints) -> float:
        """Beta L_q at the bits that the file has."""
        gone = self.model.settings.b_max - self._bits[places[self._places]]
        return self.model.settings.beta * float(self.model.quantisation(gone))

    def repaired(self, row: Row, places: Ints) -> tuple[Row, Ints]:
        """Brought to the size, from the nearest counts that are allowed."""
        table, rows = self._through(row)
        counts = self.model.groups.space.counts(row).tolist()
        levels = [int(np.abs(offer - k).argmin()) for offer, k in zip(table.offers, counts, strict=True)]
        state = greedy(table, self.most, State(np.array(levels, np.int64), places))
        if state is None:  # no step leads down where a layer's narrower width takes more bytes: back from the other end, then
            state = greedy(table, self.most, _end(table))
        assert state is not None  # the end fits
        taken = [own[k] for own, k in zip(rows, table.counts(state.levels).tolist(), strict=True)]
        return np.concatenate([np.zeros(0, bool), *taken]), state.widths

    def named(self, places: Ints) -> dict[str, str]:
        """Widths by layer, of all that can be quantised."""
        every = zip(self.sizes.layers, self.whole.widths, places.tolist(), strict=True)
        quantisable = set(self.sizes.quantisable)
        return {layer.name: WIDTHS[own[place]] for layer, own, place in every if layer.name in quantisable}

    @cached_property
    def _offered(self) -> Ints:
        return np.array([WIDTHS.index(width) for width in WIDTHS if width in self.widths], np.int64)

    @cached_property
    def _bits(self) -> NDArray[np.float64]:
        """(widths,) of those allowed; never more than there were."""
        bits = [float(BITS[WIDTHS[place]]) for place in self._offered.tolist()]
        return np.minimum(bits, self.model.settings.b_max)

    @cached_property
    def _places(self) -> list[int]:
        """Of the model's layers in `sizes.layers`."""
        names = [layer.name for layer in self.sizes.layers]
        return [names.index(layer) for layer in self.model.layers]

    def _through(self, row: Row) -> tuple[Table, list[NDArray[np.bool_]]]:
        """The choices along nested selections, and per group (size - floor + 1, size) these, `row` among them."""
        problem, space = self.model.problem, self.model.groups.space
        energies, rows = [], []
        for span, pairs, size, floor in zip(space.spans, problem.couplings, space.sizes, space.floors, strict=True):
            own = _nested(problem.linear[span], pairs, row[span], size - floor)
            x = own.astype(np.float64)
            energies.append(x @ problem.linear[span] + np.einsum("ki,ki->k", x @ pairs, x) / 2)
            rows.append(own)
        widths, losses = [np.zeros(1, np.int64) for _ in self.sizes.layers], [np.zeros(1) for _ in self.sizes.layers]
        gone = self.model.settings.b_max - self._bits
        for place, scale in zip(self._places, self.model.scale.tolist(), strict=True):
            widths[place], losses[place] = self._offered, self.model.settings.beta * scale * gone**2
        return Table.of(self.sizes, energies, self.alignment.allowed, widths, losses), rows


def _end(table: Table) -> State:
    """As much pruned as may be, all layers at their narrowest."""
    tops = ([len(own) - 1 for own in table.offers], [len(own) - 1 for own in table.widths])
    return State(np.array(tops[0], np.int64), np.array(tops[1], np.int64))


def _nested(linear: NDArray[np.float64], couplings: NDArray[np.float64], row: Row, most: int) -> NDArray[np.bool_]:
    """(most + 1, m) selections of 0, 1, ... units through `row`: units come back, or go, at the best energy change."""
    rows = np.zeros((most + 1, len(linear)), bool)
    here = int(row.sum())
    rows[here] = row
    for k in range(here, 0, -1):
        rows[k - 1] = rows[k]
        rows[k - 1, np.where(rows[k], linear + couplings @ rows[k], -np.inf).argmax()] = False
    for k in range(here, most):
        rows[k + 1] = rows[k]
        rows[k + 1, np.where(rows[k], np.inf, linear + couplings @ rows[k]).argmin()] = True
    return rows
