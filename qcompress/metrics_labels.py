"""How right labels are: top-1 accuracy of images, mean intersection over union of masks, and what to differentiate for them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qcompress.errors import DataError

__all__ = ["IGNORED", "cross_entropy", "image_iou", "mean_iou", "overlaps", "top1"]

IGNORED = 255
"""The class of pixels that do not count."""


def top1(output: Tensor, label: Tensor) -> Tensor:
    """100 for each image whose largest output is its label's, else 0: (N,) float64. `output` is (N, classes), `label` (N,)."""
    _check(output, label)
    return 100.0 * (output.argmax(1) == label).double()


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """(N,) cross entropy of each image, in nats: of its label, or the mean over the pixels that count of its mask.

    `output` is (N, classes) beside labels (N,), or (N, classes, H, W) beside masks (N, H, W).
    """
    _check(output, target)
    loss = functional.cross_entropy(output, target, ignore_index=IGNORED if target.ndim > 1 else -100, reduction="none")
    if target.ndim == 1:
        return loss
    return loss.flatten(1).sum(1) / (target != IGNORED).flatten(1).sum(1).clamp_min(1)


def overlaps(output: Tensor, mask: Tensor) -> Tensor:
    """(N, 2, classes) float64: pixels of each class in both the output and the mask, and in at least one of them.

    `output` is (N, classes, H, W), `mask` (N, H, W); pixels of the class IGNORED do not count.
    """
    _check(output, mask)
    classes = output.shape[1]
    counts = output.new_zeros((len(mask), 2, classes), dtype=torch.float64)
    for row, found, wanted in zip(counts, output.argmax(1), mask, strict=True):
        valid = wanted != IGNORED
        table = torch.bincount(wanted[valid] * classes + found[valid], minlength=classes**2).reshape(classes, classes).double()
        row[0] = table.diagonal()
        row[1] = table.sum(0) + table.sum(1) - table.diagonal()
    return counts


def mean_iou(counts: NDArray[np.float64]) -> float:
    """Mean over classes of intersection over union, in percent, of the `overlaps` (N, 2, classes) of all images together.

    Classes that are nowhere, neither in an output nor in a mask, do not count; NaN where no pixel counts.
    """
    both, either = counts.sum(0)
    return float(100 * np.mean(both[either > 0] / either[either > 0])) if either.any() else float("nan")


def image_iou(output: Tensor, mask: Tensor) -> Tensor:
    """(N,) the `mean_iou` of each image alone; 100 where none of its pixels counts. Its mean is not the mIoU of the images."""
    both, either = overlaps(output, mask).unbind(1)
    present = either > 0
    shares = torch.where(present, both / either.clamp_min(1), 0.0).sum(1) / present.sum(1).clamp_min(1)
    return 100 * torch.where(present.any(1), shares, 1.0)


def _check(output: Tensor, target: Tensor) -> None:
    if output.ndim != target.ndim + 1 or output.shape[:1] != target.shape[:1] or output.shape[2:] != target.shape[1:]:
        raise DataError(
            f"the network returns {tuple(output.shape)} for labels {tuple(target.shape)}; expected a value for each class",
            "is this a network for such labels?",
        )
    counted = target[target != IGNORED] if target.ndim > 1 else target
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < output.shape[1]:
        raise DataError(
            f"labels from {int(counted.min())} to {int(counted.max())}, but the network knows {output.shape[1]} classes",
            "number the classes from 0, in the order of the network's outputs (classes.txt)",
        )
