"""What is made small in training: the distance to the targets, and to what the dense network answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from qcompress.metrics import Metric, projected
from qcompress.metrics_images import psnr_loss

__all__ = ["TEMPERATURE", "Lesson", "divergence"]

TEMPERATURE = 2.0
"""Logits are divided by it before they are compared (Hinton, Vinyals and Dean, 2015)."""


@dataclass(frozen=True)
class Lesson:
    """The loss by which one output is judged.

    metric    what the network is chosen by: its differentiable loss is the distance to the targets
    labels    whether targets are classes, of images or of pixels

    Restored images have one target, the mixture of the two: for a squared error that is the same as two errors, mixed. A metric
    without a loss leaves the dense network alone to learn from.
    """

    metric: Metric
    labels: bool

    @property
    def needs_teacher(self) -> bool:
        """Whether there is nothing but the dense network's answers to learn from."""
        return self.metric.loss is projected

    def __call__(self, output: Tensor, target: Tensor, taught: Tensor | None, share: float) -> Tensor:
        """() the mean over the images of a batch.

        `taught` is the dense network's output, which is `share` (0..1) of what is learnt from: with 1 the targets are not
        looked at, with 0 it may be None.
        """
        if self.labels:
            loss = output.new_zeros(())
            if share < 1:
                loss = loss + (1 - share) * self.metric.loss(output, target).mean()
            if taught is not None:
                loss = loss + share * divergence(output, taught)
            return loss
        wanted = target if taught is None else taught if share == 1 else share * taught + (1 - share) * target
        loss_of = psnr_loss if self.needs_teacher else self.metric.loss
        return loss_of(output, wanted).mean()


def divergence(output: Tensor, taught: Tensor) -> Tensor:
    """() Kullback-Leibler divergence of the softened classes of `output` from those of `taught`, (N, classes, ...), in nats.

    The mean over images, or over their pixels, times the square of the temperature, so that gradients keep their size.
    """
    ours, theirs = (functional.log_softmax(logits / TEMPERATURE, 1) for logits in (output, taught))
    each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
    return TEMPERATURE**2 * each.mean()
