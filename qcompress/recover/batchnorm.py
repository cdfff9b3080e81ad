"""BatchNorm statistics of a changed network, measured anew."""

from __future__ import annotations

import copy

import torch
from torch import nn

from qcompress.data.images import CalibrationCrops
from qcompress.frozen import answer, evaluating

__all__ = ["has_batchnorm", "reestimate_batchnorm"]


def _tracking(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers of `model` that keep running statistics."""
    layers = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [layer for layer in layers if layer.track_running_stats]


def has_batchnorm(model: nn.Module) -> bool:
    """Whether there is anything to re-estimate."""
    return bool(_tracking(model))


def reestimate_batchnorm(model: nn.Module, crops: CalibrationCrops, batch: int = 8) -> nn.Module:
    """A copy of `model` whose BatchNorm statistics are the cumulative averages over batches of `crops`; all else is the same.

    It can help by decibels and it can harm a little: keep the copy only where it measures better.
    """
    model = copy.deepcopy(model)
    layers = _tracking(model)
    momenta = [layer.momentum for layer in layers]
    with evaluating(model), torch.no_grad():
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's sign for a cumulative average
            layer.train()
        for start in range(0, len(crops), batch):
            answer(model, crops.inputs[start : start + batch])
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return model
