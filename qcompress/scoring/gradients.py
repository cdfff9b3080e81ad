"""What each unit is worth to the metric, to first order: gradients of the loss in the units' masks, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops
from qcompress.frozen import answer, frozen
from qcompress.groups import Groups
from qcompress.masks import consumer_masks

__all__ = ["Loss", "batch_gradients", "mask_gradients"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(output, targets), both (N, ...), to one loss per image (N,); for PSNR: its negative in dB, of the unclamped output."""


def batch_gradients(
    model: nn.Module, groups: Groups, inputs: Tensor, targets: Tensor, loss: Loss, pruned: Sequence[int] = ()
) -> NDArray[np.float64]:
    """(B, n): dL/dm of the loss of each image of the batch in each unit's mask m, in the unit of `loss`.

    They are taken at m = 1, at m = 0 for the units `pruned` (places in the space). One backward pass: every image has a mask
    of its own, so that its row of the gradient is its own too. The model is left as it was.
    """
    masks = inputs.new_ones(len(inputs), len(groups.space))
    masks[:, list(pruned)] = 0.0
    masks.requires_grad_()
    with frozen(model), torch.enable_grad(), consumer_masks(model, groups, masks):
        losses = loss(answer(model, inputs), targets)
    if losses.shape != (len(inputs),):
        raise ValueError(f"the loss gave shape {tuple(losses.shape)} for {len(inputs)} images, expected one value each")
    (gradient,) = torch.autograd.grad(losses.sum(), masks)
    return gradient.detach().cpu().numpy().astype(np.float64)


def mask_gradients(
    model: nn.Module, groups: Groups, crops: CalibrationCrops, loss: Loss, batch: int = 8
) -> NDArray[np.float64]:
    """(N, n): `batch_gradients` of all crops, batch by batch."""
    parts = [slice(start, start + batch) for start in range(0, len(crops), batch)]
    rows = [batch_gradients(model, groups, crops.inputs[part], crops.targets[part], loss) for part in parts]
    return np.concatenate(rows)
