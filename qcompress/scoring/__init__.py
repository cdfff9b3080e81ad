"""Importance and similarity of the units of a network, on calibration crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qcompress.data.images import CalibrationCrops
from qcompress.groups import Groups
from qcompress.progress import Advance
from qcompress.scores import Scores
from qcompress.scoring.activations import Activations, Moments, batch_moments, combine, mean_inputs, measure_activations
from qcompress.scoring.gradients import Loss, batch_gradients, mask_gradients
from qcompress.scoring.weights import magnitudes

__all__ = [
    "Activations",
    "Loss",
    "Moments",
    "Passes",
    "batch_gradients",
    "batch_moments",
    "magnitudes",
    "mask_gradients",
    "mean_inputs",
    "measure_activations",
    "score",
]

Passes: TypeAlias = Callable[[Sequence[range]], tuple[Iterator[Moments], Iterator[NDArray[np.float64]]]]
"""Batches of crops to the moments and the mask gradients of each, in their order; the first is used up before the second."""

_T = TypeVar("_T")


def score(
    model: nn.Module,
    groups: Groups,
    crops: CalibrationCrops,
    loss: Loss,
    *,
    batch: int = 8,
    passes: Passes | None = None,
    progress: Advance | None = None,
) -> Scores:
    """All that the objectives need to know, from one forward pass and one forward and backward pass over `crops`.

    taylor = mean |g|, fisher = 1/2 mean g^2 over the crops, g the mask gradients of `loss` (Molchanov et al., CVPR 2019, with
    the mask as the parameter). `passes` computes them elsewhere. `progress` is told the share done, 0..1. The model is left as
    it was.
    """
    batches = [range(start, min(start + batch, len(crops))) for start in range(0, len(crops), batch)]
    moments, gradients = (passes or _here(model, groups, crops, loss))(batches)
    activations = combine(groups, _told(moments, progress, 0, 2 * len(batches)))
    rows = np.concatenate(list(_told(gradients, progress, len(batches), 2 * len(batches))))
    return Scores(
        space=groups.space,
        magnitude=magnitudes(model, groups),
        taylor=np.abs(rows).mean(0),
        fisher=(rows**2).mean(0) / 2,
        similarity=activations.similarity,
        gradients=rows,
    )


def _here(model: nn.Module, groups: Groups, crops: CalibrationCrops, loss: Loss) -> Passes:
    """The passes in this process, on the device of `crops`."""

    def passes(batches: Sequence[range]) -> tuple[Iterator[Moments], Iterator[NDArray[np.float64]]]:
        parts = [slice(part.start, part.stop) for part in batches]
        moments = (batch_moments(model, groups, crops.inputs[part]) for part in parts)
        return moments, (batch_gradients(model, groups, crops.inputs[part], crops.targets[part], loss) for part in parts)

    return passes


def _told(values: Iterator[_T], progress: Advance | None, before: int, of: int) -> Iterator[_T]:
    """The values, each told to `progress` when it is there."""
    for number, value in enumerate(values, before + 1):
        if progress:
            progress(number / of)
        yield value
