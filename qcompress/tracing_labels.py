"""Labels: which numbers in which tensors stand and fall together.

Every channel of every layer has a label of its own. A tensor carries an array of labels that broadcasts to its shape: the label
of an element says with which channel it comes and goes. Operations unite labels, or tie all those along an axis where they mix
them; what is one class in the end is one unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["Labels", "Rank", "Reason", "broadcast", "compressed", "varying"]


class Rank(IntEnum):
    """How telling a reason is: of several, the lowest is shown."""

    OUTPUT = 0
    INPUT = 1
    IGNORED = 2
    LAYER = 3
    OPERATION = 4
    STRUCTURE = 5
    TRIAL = 6


class Reason(NamedTuple):
    """Why channels are kept; `text` completes "kept whole: ..."."""

    rank: Rank
    text: str


def varying(labels: Tensor) -> list[int]:
    """The axes along which `labels` are more than one."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def compressed(labels: Tensor) -> Tensor:
    """`labels` with size 1 along every axis where they do not change."""
    for axis in varying(labels):
        first = labels.narrow(axis, 0, 1)
        if bool((labels == first).all()):
            labels = first
    return labels.contiguous()


def broadcast(*labels: Tensor) -> tuple[Tensor, ...]:
    """`labels` at their common shape."""
    shape = torch.broadcast_shapes(*(item.shape for item in labels))  # type: ignore[no-untyped-call]
    return tuple(item.expand(shape) for item in labels)


class Labels:
    """Labels 0, 1, 2 ..., the pairs of them that were united, and why some are kept."""

    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[NDArray[np.int64]] = []
        self._reasons: list[tuple[NDArray[np.int64], Reason]] = []
        self._notes: list[tuple[NDArray[np.int64], Reason]] = []
        self._classes = np.zeros(0, np.int64)  # of the labels so far, pairs that wait not counted
        self._total = 0  # number of these classes

    def fresh(self, shape: Sequence[int]) -> Tensor:
        """New labels, int64, of `shape`."""
        start, self._count = self._count, self._count + int(np.prod(shape, dtype=np.int64))
        return torch.arange(start, self._count).reshape(tuple(shape))

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Make each label of `a` one with that of `b` at the same place; the two broadcast against each other."""
        if a is b:
            return
        a, b = broadcast(a, b)
        pairs = np.stack((a.reshape(-1).numpy(), b.reshape(-1).numpy()))
        pairs = pairs[:, pairs[0] != pairs[1]]
        if pairs.shape[1] > 4096:
            pairs = np.stack(np.divmod(np.unique(pairs[0] * self._count + pairs[1]), self._count))
        if pairs.size:
            self._pairs.append(pairs)

    def tie(self, labels: Tensor, axes: Iterable[int]) -> Tensor:
        """Make all labels along `axes` one; returns `labels` with size 1 there."""
        for axis in axes:
            if labels.shape[axis] > 1:
                first = labels.narrow(axis, 0, 1)
                self.unite(labels, first)
                labels = first
        return labels

    def keep(self, labels: Tensor, reason: Reason) -> None:
        """What bears these labels stays, for this reason."""
        self._reasons.append((np.unique(labels.numpy()), reason))

    def note(self, labels: Tensor, reason: Reason) -> None:
        """A reason to show should the class of these labels come out as a single unit, which has to stay."""
        self._notes.append((np.unique(labels.numpy()), reason))

    def classes(self) -> NDArray[np.int64]:
        """(labels,) the number of each label's class."""
        added = self._count - len(self._classes)
        if added:
            self._classes = np.concatenate((self._classes, np.arange(self._total, self._total + added)))
            self._total += added
        if self._pairs:
            pairs = self._classes[np.concatenate(self._pairs, axis=1)]
            pairs = pairs[:, pairs[0] != pairs[1]]
            self._pairs.clear()
            graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(self._total, self._total))
            self._total, classes = connected_components(graph, directed=False)
            self._classes = classes.astype(np.int64)[self._classes]
        return self._classes

    def of(self, labels: Tensor) -> NDArray[np.int64]:
        """The classes of `labels`, in their shape."""
        found: NDArray[np.int64] = self.classes()[labels.numpy()]
        return found

    def reasons(self) -> dict[int, tuple[Reason, ...]]:
        """Why each class that is kept is kept, the most telling reason first."""
        return self._gather(self._reasons)

    def notes(self) -> dict[int, tuple[Reason, ...]]:
        """Per class, what mixes it."""
        return self._gather(self._notes)

    def _gather(self, entries: list[tuple[NDArray[np.int64], Reason]]) -> dict[int, tuple[Reason, ...]]:
        found: dict[int, set[Reason]] = {}
        for labels, reason in entries:
            for number in np.unique(self.classes()[labels]).tolist():
                found.setdefault(number, set()).add(reason)
        return {number: tuple(sorted(reasons)) for number, reasons in found.items()}
