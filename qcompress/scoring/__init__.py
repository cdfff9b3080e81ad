"""Importance and similarity of the units of a network, on calibration crops."""

from __future__ import annotations

import numpy as np
from torch import nn

from qcompress.data.images import CalibrationCrops
from qcompress.groups import Groups
from qcompress.progress import Advance
from qcompress.scores import Scores
from qcompress.scoring.activations import Activations, mean_inputs, measure_activations
from qcompress.scoring.gradients import Loss, mask_gradients
from qcompress.scoring.weights import magnitudes

__all__ = ["Activations", "Loss", "magnitudes", "mask_gradients", "mean_inputs", "measure_activations", "score"]


def score(
    model: nn.Module,
    groups: Groups,
    crops: CalibrationCrops,
    loss: Loss,
    *,
    batch: int = 8,
    progress: Advance | None = None,
) -> Scores:
    """All that the objectives need to know, from one forward pass and one forward and backward pass over `crops`.

    taylor = mean |g|, fisher = 1/2 mean g^2 over the crops, g the mask gradients of `loss` (Molchanov et al., CVPR 2019, with
    the mask as the parameter). `progress` is told the share done, 0..1. The model is left as it was.
    """
    activations = measure_activations(
        model, groups, crops, batch, progress and (lambda done, note="": progress(done / 2, note))
    )
    gradients = mask_gradients(
        model, groups, crops, loss, batch, progress and (lambda done, note="": progress((1 + done) / 2, note))
    )
    return Scores(
        space=groups.space,
        magnitude=magnitudes(model, groups),
        taylor=np.abs(gradients).mean(0),
        fisher=(gradients**2).mean(0) / 2,
        similarity=activations.similarity,
        gradients=gradients,
    )
