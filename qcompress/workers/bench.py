"""What a worker has and does: the network, its groups, the crops, and the three kinds of task."""

from __future__ import annotations

import copy
import hashlib
import pickle
import platform
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from qcompress._version import __version__
from qcompress.data.images import CalibrationCrops, SelectionCrops
from qcompress.errors import UsageError, WorkerError
from qcompress.factories import importable_from_here
from qcompress.frozen import answer, frozen
from qcompress.groups import Groups
from qcompress.metrics import Metric
from qcompress.recover.static import StaticRepair
from qcompress.refine.objective import SlicedMetric
from qcompress.scoring import batch_gradients, batch_moments
from qcompress.selection import Selection
from qcompress.surgery import outputs_of
from qcompress.workers import contract
from qcompress.workers.contract import Answer, Backward, Candidate, Done, Facts, Failed, Forward, Task

__all__ = ["Bench", "Load", "Parcel", "facts_of", "images_per_task", "pack", "portable", "respond", "threads", "unpack"]

_PIXELS = 2**15  # of the inputs of one task: four crops of 96
_FEWEST, _MOST = 4, 16

L = TypeVar("L", bound=contract.Load)


@dataclass(frozen=True, eq=False)
class Load:
    """What is placed once: the dense network in evaluation mode, and the crops, on one device. `metric` is that of the run.

    Candidates are measured as `repair` leaves them; None: as cut.
    """

    model: nn.Module
    groups: Groups
    calibration: CalibrationCrops
    selection: SelectionCrops
    metric: Metric
    repair: StaticRepair | None = None

    def on_cpu(self) -> Load:
        """The same on the CPU; the model is copied if it is not there."""
        crops = self.calibration.to("cpu"), self.selection.to("cpu")
        away = any(tensor.device.type != "cpu" for tensor in (*self.model.parameters(), *self.model.buffers()))
        model = copy.deepcopy(self.model).cpu() if away else self.model
        repair = None if self.repair is None else self.repair.to("cpu", model)
        return replace(self, model=model, calibration=crops[0], selection=crops[1], repair=repair)

    def to(self, device: str) -> Load:
        """The same on another device. The model itself goes there: it is a worker's own."""
        crops = self.calibration.to(device), self.selection.to(device)
        model = self.model.to(device)
        repair = None if self.repair is None else self.repair.to(device, model)
        return replace(self, model=model, calibration=crops[0], selection=crops[1], repair=repair)

    def bench(self, device: str) -> Bench:
        """See `contract.Load`."""
        return Bench(self.to(device))


def images_per_task(crops: SelectionCrops) -> int:
    """Selection crops of one task: by their size alone, never by who computes. Few, so that one candidate can be spread."""
    pixels = max(1, int(crops.inputs[0, 0].numel()))
    return max(_FEWEST, min(_MOST, _PIXELS // pixels))


class Bench:
    """Does tasks on its load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._evaluate: SlicedMetric | None = None

    def do(self, task: Task) -> Any:
        """The result of `task`, see there."""
        load = self._load
        match task:
            case Candidate(pruned, images):
                return self._evaluator()([Selection(load.groups.space, pruned)], images)[0]
            case Forward(images):
                return batch_moments(load.model, load.groups, load.calibration.inputs[images.start : images.stop])
            case Backward(images, pruned):
                part = slice(images.start, images.stop)
                inputs, targets = load.calibration.inputs[part], load.calibration.targets[part]
                return batch_gradients(load.model, load.groups, inputs, targets, load.metric.loss, pruned)
        raise ValueError(f"{task} is not for this bench")

    def facts(self) -> Facts:
        """See `facts_of`."""
        return facts_of(self._load.model, self._load.calibration.inputs[:1])

    def _evaluator(self) -> SlicedMetric:
        if self._evaluate is None:
            load = self._load
            size = images_per_task(load.selection)
            chooser, repair = load.metric.chooser, load.repair
            self._evaluate = SlicedMetric(load.model, load.groups, load.selection, chooser, batch=size, weights=repair)
        return self._evaluate


def facts_of(model: nn.Module, probe: Tensor) -> Facts:
    """What this process computes with; the probe's output, of the model and one crop (1, C, H, W), as a hash."""
    with torch.no_grad(), frozen(model):
        outputs = outputs_of(answer(model, probe))
    bits = b"".join(np.ascontiguousarray(output.cpu().numpy()).tobytes() for output in outputs)
    return Facts(__version__, torch.__version__, hashlib.sha256(bits).hexdigest(), platform.node())


def respond(bench: contract.Bench, task: Task) -> Answer:
    """What a worker answers to `task`: its result, or what it raised, in a form that can be pickled."""
    try:
        return Done(bench.do(task))
    except Exception as error:  # the task's own, whatever it is: the parent raises it
        return Failed(portable(error))


def portable(error: Exception) -> Exception:
    """`error`, with its traceback as a note; one of ours in its place if it cannot be pickled."""
    error.add_note(f"in a worker:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception of the user's may do anything when it is pickled
        return WorkerError(f"a worker raised {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return error


@dataclass(frozen=True)
class Parcel:
    """A load on its way to the workers: pickled, and whether modules in the current folder may be imported for it."""

    content: bytes
    from_here: bool


def pack(load: L, *, from_here: bool, dumps: Callable[[L], bytes] = pickle.dumps) -> Parcel:
    """The load as bytes, from the CPU.

    Raises:
        UsageError: a class or function of the network's, or the metric's, cannot be pickled, as it has no name in a module.

    """
    try:
        return Parcel(dumps(load), from_here)
    except Exception as error:  # foreign code, and pickle raises errors of many kinds
        told = " ".join(str(error).split())[:300]
        hint = "define its classes and functions, and the metric's, at the top of a module, or run without workers"
        raise UsageError(f"the network cannot be sent to workers: {type(error).__name__}: {told}", hint) from error


def unpack(parcel: Parcel, device: str) -> contract.Bench:
    """A bench on `device`. Runs the code that the pickle names: only for parcels of our own."""
    if parcel.from_here:
        with importable_from_here():
            load: contract.Load = pickle.loads(parcel.content)
    else:
        load = pickle.loads(parcel.content)
    return load.bench(device)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Inside the context torch computes in so many threads; None leaves it as it is."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
