"""The evaluator and the scoring passes of a run, as tasks for a crew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from qcompress.scoring import Moments
from qcompress.selection import Selection
from qcompress.workers.contract import Backward, Candidate, Crew, Forward, Task

__all__ = ["SpreadMetric", "SpreadPasses"]


class SpreadMetric:
    """The metric of candidates (`refine.contract.Evaluate`): a task is one candidate on at most `chunk` crops.

    A range is cut from its beginning, so that its chunks are the same whoever computes them.
    """

    def __init__(self, crew: Crew, images: int, chunk: int) -> None:
        self._crew, self._chunk = crew, chunk
        self.images = images

    def __call__(self, selections: Sequence[Selection], images: range) -> NDArray[np.float64]:
        """(K, len(images)) metric of each candidate on each image, higher is better."""
        starts = range(images.start, images.stop, self._chunk)
        chunks = [range(start, min(start + self._chunk, images.stop)) for start in starts]
        tasks = [Candidate(selection.pruned, chunk) for selection in selections for chunk in chunks]
        values = list(self._crew.run(tasks))
        return np.concatenate(values).reshape(len(selections), len(images))


class SpreadPasses:
    """The passes of the scoring (`scoring.Passes`): a task is one batch of crops, forward, or forward and backward.

    Gradients are taken with the units `pruned` gone.
    """

    def __init__(self, crew: Crew, pruned: tuple[int, ...] = ()) -> None:
        self._crew, self._pruned = crew, pruned

    def __call__(self, batches: Sequence[range]) -> tuple[Iterator[Moments], Iterator[NDArray[np.float64]]]:
        """One run for both passes, so that nobody waits between them."""
        tasks: list[Task] = [Forward(batch) for batch in batches]
        tasks += [Backward(batch, self._pruned) for batch in batches]
        results = self._crew.run(tasks)
        return islice(results, len(batches)), results
