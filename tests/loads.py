"""What the tests of workers place on them: small networks with crops, and metrics that do harm. Workers import it by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from zoo import architecture

from qcompress import scoring, tracing
from qcompress.data.images import CalibrationCrops, SelectionCrops
from qcompress.errors import DataError
from qcompress.metrics import Metric, metric
from qcompress.metrics_images import Measure, psnr, psnr_loss
from qcompress.refine.contract import RefineResult
from qcompress.refine.loop import refine
from qcompress.scores import Scores
from qcompress.selection import Selection, UnitSpace
from qcompress.workers.bench import Load, images_per_task
from qcompress.workers.contract import Backward, Candidate, Crew, Forward, Task
from qcompress.workers.hiring import Wanted, hired
from qcompress.workers.measuring import SpreadMetric, SpreadPasses

__all__ = [
    "EndsTheProcess",
    "Unspeakable",
    "crew",
    "ends_the_worker",
    "measured_by",
    "outcome",
    "refuses",
    "same",
    "speaks_no_pickle",
    "tasks_of",
    "waits",
    "zoo_load",
]


def zoo_load(name: str = "half-unet", images: int = 12) -> Load:
    """A network of the zoo, in float64, with random images of its size and others to compare with."""
    model, (example,) = architecture(name)
    generator = torch.Generator().manual_seed(7)
    shape = (images, *example.shape[1:])
    inputs = torch.rand(shape, generator=generator, dtype=torch.float64)
    targets = (inputs + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    groups = tracing.trace(model, example)
    return Load(model, groups, CalibrationCrops(inputs, targets), SelectionCrops(inputs, targets), metric("psnr"))


def measured_by(load: Load, measure: Measure) -> Load:
    """The same, with a metric of one's own."""
    return replace(load, metric=Metric("own", "", True, measure, psnr_loss))


def start_of(space: UnitSpace) -> Selection:
    """A quarter of the units of every group."""
    x = np.zeros(len(space), bool)
    for span, size in zip(space.spans, space.sizes, strict=True):
        x[span.start : span.start + size // 4] = True
    return Selection.of(space, x)


def tasks_of(load: Load, candidates: int = 6) -> list[Task]:
    """Tasks of all kinds."""
    half = range(len(load.selection) // 2)
    chosen = start_of(load.groups.space).pruned
    tasks: list[Task] = [Candidate(chosen[: 1 + number % len(chosen)], half) for number in range(candidates)]
    return [Forward(half), *tasks, Backward(half)]


def outcome(load: Load, crew: Crew, evaluations: int = 8) -> tuple[Scores, RefineResult]:
    """What a run computes by its crew: scores, and a refinement."""
    passes = SpreadPasses(crew)
    scores = scoring.score(load.model, load.groups, load.calibration, load.metric.loss, batch=5, passes=passes)
    evaluate = SpreadMetric(crew, len(load.selection), images_per_task(load.selection))
    return scores, refine(evaluate, start_of(load.groups.space), evaluations=evaluations, seed=1, batch=2)


def same(one: Any, other: Any) -> bool:
    """Whether two results are the same to the last bit."""
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, Scores | scoring.Moments | RefineResult):
        return same(vars(one), vars(other))
    return bool(one == other)


@contextmanager
def crew(load: Load, said: list[str] | None = None, **wanted: Any) -> Iterator[Crew]:
    """The crew that is wanted; what it says goes to `said`."""
    with hired(Wanted(**wanted), lambda: load, (said if said is not None else []).append) as found:
        yield found


def refuses(output: Tensor, target: Tensor) -> Tensor:
    """A metric that raises one of our errors, with a hint."""
    raise DataError("these images are of no use", "take others")


class Unspeakable(Exception):  # noqa: N818 - a name of the user's
    """Cannot be made again from its pickle."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def speaks_no_pickle(output: Tensor, target: Tensor) -> Tensor:
    """A metric that raises what cannot be pickled."""
    raise Unspeakable(1, 2)


def ends_the_worker(output: Tensor, target: Tensor) -> Tensor:
    """A metric that ends whoever computes it."""
    os.kill(os.getpid(), signal.SIGKILL)
    return psnr(output, target)


def waits(output: Tensor, target: Tensor) -> Tensor:
    """PSNR, slow enough for something to happen meanwhile."""
    time.sleep(0.3)
    return psnr(output, target)


class EndsTheProcess:
    """A metric that ends the process in which it is unpickled."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return psnr(output, target)

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)
