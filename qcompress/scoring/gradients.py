"""What each unit is worth to the metric, to first order: gradients of the loss in the units' masks, image by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops
from qcompress.frozen import answer, frozen
from qcompress.groups import Groups
from qcompress.masks import consumer_masks
from qcompress.progress import Advance

__all__ = ["Loss", "mask_gradients"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(output, targets), both (N, ...), to one loss per image (N,); for PSNR: its negative in dB, of the unclamped output."""


def mask_gradients(
    model: nn.Module,
    groups: Groups,
    crops: CalibrationCrops,
    loss: Loss,
    batch: int = 8,
    progress: Advance | None = None,
) -> NDArray[np.float64]:
    """(N, n): dL/dm of each crop's loss in each unit's mask m, at m = 1, in the unit of `loss`.

    One backward pass per batch: every image of it has a mask of its own, so that its row of the gradient is its own too.
    `progress` is told the share done, 0..1. The model is left as it was.
    """
    rows = []
    with frozen(model):
        for start in range(0, len(crops), batch):
            inputs, targets = crops.inputs[start : start + batch], crops.targets[start : start + batch]
            masks = inputs.new_ones(len(inputs), len(groups.space), requires_grad=True)
            with torch.enable_grad(), consumer_masks(model, groups, masks):
                losses = loss(answer(model, inputs), targets)
            if losses.shape != (len(inputs),):
                raise ValueError(f"the loss gave shape {tuple(losses.shape)} for {len(inputs)} images, expected one value each")
            (gradient,) = torch.autograd.grad(losses.sum(), masks)
            rows.append(gradient.detach().cpu().numpy().astype(np.float64))
            if progress:
                progress((start + len(inputs)) / len(crops))
    return np.concatenate(rows)
