"""The sparse training that Torch-Pruning's group norm puts before pruning (Fang et al., CVPR 2023).

Loss, crops and steps are those of the fine-tuning. The rest is as in the authors' reproduce/main.py (`group_sl`): their
regulariser is added to the gradients, SGD with momentum 0.9 and without weight decay moves the weights, its rate falls to a
tenth after 60 % and again after 80 % of the steps, BatchNorm takes the statistics of each batch. But for the rate: with theirs,
0.01, the reference network loses 12.8 dB in 300 steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from qcompress.finetune.drawing import Drawer
from qcompress.finetune.losses import Lesson
from qcompress.finetuning import fresh_noise, precision_on, training_images
from qcompress.frozen import answer
from qcompress.pipeline import Job

__all__ = ["train_sparsely"]

_CROP = 64  # pixels a side, as the fine-tuning has it where the output is as large as the input
_RATE, _MOMENTUM, _MILESTONES = 1e-4, 0.9, (0.6, 0.8)

Regularise = Callable[[nn.Module], None]
"""Adds to the gradients of a network what makes its groups sparse."""


def train_sparsely(job: Job, model: nn.Module, regularise: Regularise) -> int:
    """Trains `model` in place by the targets, for as many steps as its fine-tuning will have; returns their number.

    Raises FloatingPointError where a weight is no number any more.
    """
    steps, device = job.settings.finetune.steps, torch.device(job.settings.device)
    assert steps is not None
    draw = Drawer(training_images(job), job.settings.finetune.batch or 8, _CROP, fresh_noise(job), job.settings.seed)
    lesson = Lesson(job.metric.chooser, labels=False)
    sgd = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM)
    rates = torch.optim.lr_scheduler.MultiStepLR(sgd, [round(share * steps) for share in _MILESTONES])
    half = precision_on(job.settings.device) == "bfloat16"
    model.train()
    for step in range(steps):
        crops = draw(step).to(job.settings.device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = answer(model, crops.inputs).float()
        sgd.zero_grad()
        torch.autograd.backward(lesson(output, crops.targets, None, 0.0))
        regularise(model)
        sgd.step()
        rates.step()
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise FloatingPointError(f"after {steps} steps of sparse training a weight is no number")
    model.eval()
    return steps
