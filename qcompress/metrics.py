"""The metrics by name, for every task: how good an output is, and what to differentiate to improve it."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcompress import seeds
from qcompress.data.tasks import Task
from qcompress.errors import QCompressError, UsageError
from qcompress.factories import importable_from_here, is_factory
from qcompress.metrics_images import Measure, psnr, psnr_loss, psnr_y, psnr_y_loss, ssim, ssim_loss
from qcompress.metrics_labels import cross_entropy, image_iou, mean_iou, overlaps, top1

__all__ = ["AUTO", "METRICS", "Metric", "companions", "metric", "projected", "psnr", "psnr_loss", "ssim", "ssim_loss"]

AUTO = "auto"
"""The name that stands for the task's own metric."""

_IMAGES: tuple[Task, ...] = ("denoising", "super-resolution")
_PLAIN = re.compile(r"[A-Za-z0-9 .%/-]*", re.ASCII)  # what reports hold as a unit


@dataclass(frozen=True)
class Metric:
    """A measure of outputs against targets.

    per_image  (output, target) to (N,): what each image is worth, in `unit`
    loss       the same, differentiable, lower is better: what units are scored by, in a unit of its own for labels
    tasks      the tasks that it is defined for
    evidence   (output, target) to (N, ...): what `total` needs of each image; None: per_image
    total      (N, ...) evidence of all images to their metric; None: the mean
    note       what the user should know of the loss
    guide      what choices are made by on the selection images, where the metric itself is too coarse for that; None: itself
    """

    name: str
    unit: str
    higher_is_better: bool
    per_image: Measure
    loss: Measure
    tasks: tuple[Task, ...] = _IMAGES
    evidence: Measure | None = None
    total: Callable[[NDArray[np.float64]], float] | None = None
    note: str | None = None
    guide: Metric | None = None

    @property
    def chooser(self) -> Metric:
        """What the refinement climbs on and what decides between repairs."""
        return self.guide or self

    @property
    def difference_unit(self) -> str:
        """What differences are in: points, where values are percent."""
        return "points" if self.unit == "%" else self.unit

    def evidence_of(self, output: Tensor, target: Tensor) -> NDArray[np.float64]:
        """(N, ...): what `overall` needs of each image."""
        found: NDArray[np.float64] = (self.evidence or self.per_image)(output, target).double().cpu().numpy()
        return found

    def overall(self, evidence: NDArray[np.float64]) -> float:
        """The metric of all images, from their evidence, concatenated: for most the mean."""
        return float(np.mean(evidence)) if self.total is None else self.total(evidence)

    def drop(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`, in `difference_unit`; negative where it is better."""
        return before - after if self.higher_is_better else after - before


_CLASSES: tuple[Task, ...] = ("classification",)
_CROSS_ENTROPY = Metric("cross entropy", "nats", False, cross_entropy, cross_entropy, _CLASSES)

METRICS: dict[str, Callable[[int], Metric]] = {
    "psnr": lambda _: Metric("psnr", "dB", True, psnr, psnr_loss),
    "psnr-y": lambda scale: Metric("psnr-y", "dB", True, *_luma(scale)),
    "ssim": lambda _: Metric("ssim", "", True, ssim, ssim_loss),
    "top1": lambda _: Metric("top1", "%", True, top1, projected, _CLASSES, guide=_CROSS_ENTROPY),
    "miou": lambda _: Metric("miou", "%", True, image_iou, cross_entropy, ("segmentation",), overlaps, mean_iou),
}
"""Every metric that `--metric` takes by name, for a scale of super-resolution. Losses of images are in the metric's unit."""

_DEFAULTS: dict[Task, str] = {"denoising": "psnr", "super-resolution": "psnr", "classification": "top1", "segmentation": "miou"}


def metric(name: str, task: Task = "denoising", scale: int = 1) -> Metric:
    """The metric called `name` for a network of this task and scale: of METRICS, "auto", or PACKAGE.MODULE:FUNCTION.

    A function of the user's gets (output, target) as `Pair` describes them, in batches, and returns one value for each image.
    Attributes of it say more: `higher_is_better` (default True), `unit` (default ""), and `loss`, a differentiable function of
    the same kind, lower is better. Without one, units are scored by `projected`.
    Raises UsageError for a name that is not known, a function that cannot be used, or a metric of another task.
    """
    if is_factory(name):
        return _custom(name)
    name = _DEFAULTS[task] if name == AUTO else name
    if name not in METRICS:
        raise UsageError(
            f"metric {name!r} is not known", f"choose one of {', '.join(METRICS)}, or name a function: package.module:function"
        )
    found = METRICS[name](scale)
    if task not in found.tasks:
        fitting = [other for other, make in METRICS.items() if task in make(scale).tasks]
        raise UsageError(f"metric {name} is for {' and '.join(found.tasks)}, this is {task}", f"choose {' or '.join(fitting)}")
    return found


def companions(chosen: Metric, task: Task) -> tuple[Metric, ...]:
    """`chosen`, and what is measured beside it: PSNR and SSIM of restored images."""
    others = [METRICS[name](1) for name in ("psnr", "ssim") if task in _IMAGES and name != chosen.name]
    return (chosen, *others)


def projected(output: Tensor, _: Tensor) -> Tensor:
    """(N,) the outputs of each image times random signs, over the root of their number.

    The squared gradients of it are, on average, the diagonal of the Gauss-Newton matrix of the squared distance to the dense
    output, whose own gradient at the dense network is zero. The signs are always the same.
    """
    generator = torch.Generator().manual_seed(seeds.integer(0, "projected loss"))
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
    sums: Tensor = (output * signs).flatten(1).sum(1)
    return sums / math.sqrt(output[0].numel())


def _luma(scale: int) -> tuple[Measure, Measure]:
    border = scale if scale > 1 else 0
    return psnr_y(border), psnr_y_loss(border)


def _custom(name: str) -> Metric:
    """The metric of a function that the user names. Runs the user's code."""
    function = _imported(name)
    unit, loss = getattr(function, "unit", ""), getattr(function, "loss", None)
    if not isinstance(unit, str) or not _PLAIN.fullmatch(unit):
        raise UsageError(f"--metric {name}: its unit is {unit!r:.60}, expected letters, digits, or one of . % / -")
    if loss is not None and not callable(loss):
        raise UsageError(f"--metric {name}: its loss is {type(loss).__name__}, expected a function of (output, target)")
    note = None
    if loss is None:
        note = f"{name} has no loss: units were scored by the squared distance to the dense network's output"
    short = re.sub(r"[^A-Za-z0-9.]+", "-", name.partition(":")[2]).strip("-") or "metric"
    return Metric(
        short if short not in METRICS else f"own-{short}",
        unit,
        bool(getattr(function, "higher_is_better", True)),
        _checked(name, function),
        projected if loss is None else _checked(f"{name}.loss", loss),
        tuple(_DEFAULTS),
        note=note,
    )


def _imported(name: str) -> Callable[[Tensor, Tensor], object]:
    module, _, path = name.partition(":")
    try:
        with importable_from_here():
            importlib.invalidate_caches()
            found: Any = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except QCompressError:
        raise
    except Exception as error:  # a module that is imported may raise anything
        told = " ".join(str(error).split())[:300]
        raise UsageError(
            f"--metric {name}: cannot be imported: {type(error).__name__}: {told}", "run from the folder that holds the module"
        ) from error
    if not callable(found):
        raise UsageError(f"--metric {name}: is no function", "name a function of (output, target)")
    function: Callable[[Tensor, Tensor], object] = found
    return function


def _checked(name: str, function: Callable[[Tensor, Tensor], object]) -> Measure:
    """`function`, held to what a metric returns."""
    return partial(_asked, name, function)


def _asked(name: str, function: Callable[[Tensor, Tensor], object], output: Tensor, target: Tensor) -> Tensor:
    try:
        values = function(output, target)
    except QCompressError:
        raise
    except Exception as error:  # foreign code
        told = " ".join(str(error).split())[:300]
        raise UsageError(f"--metric {name}: raised {type(error).__name__}: {told}") from error
    if not isinstance(values, Tensor) or values.shape != output.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UsageError(f"--metric {name}: returned {got}, expected a tensor ({len(output)},), one value for each image")
    return values
