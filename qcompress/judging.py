"""How much worse a slim network is than the dense one on the judging crops, and how far that may be off for their number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qcompress.bisection import margin
from qcompress.data.images import SelectionCrops
from qcompress.metrics import Metric
from qcompress.recover.choice import evidence

__all__ = ["Judge", "Judged"]


class Judged(NamedTuple):
    """The drop of the metric, in its unit, and its one-sided margin: see `bisection.margin`."""

    drop: float
    margin: float


class Judge:
    """Compares networks with `dense` crop by crop; what that one makes of the `crops` is computed once."""

    def __init__(self, dense: nn.Module, crops: SelectionCrops, metric: Metric) -> None:
        self._crops, self._metric = crops, metric
        self._dense = evidence(dense, crops, metric)

    def __len__(self) -> int:
        return len(self._crops)

    def judge(self, slim: nn.Module) -> Judged:
        """`slim` against the dense network; it is on the device of the crops."""
        found = evidence(slim, self._crops, self._metric)

        def drop(of: NDArray[np.intp]) -> float:
            return self._metric.drop(self._metric.overall(self._dense[of]), self._metric.overall(found[of]))

        return Judged(drop(np.arange(len(self))), margin(drop, len(self)))
