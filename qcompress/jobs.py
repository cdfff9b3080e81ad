"""What every stage of a run works on: the dense network and its groups, the images, the settings, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from qcompress import seeds
from qcompress.alignment import Alignment
from qcompress.asking import Price, asked
from qcompress.budgets import Budget
from qcompress.checkpoints import Checkpoint
from qcompress.data.images import CalibrationCrops, SelectionCrops, Splits
from qcompress.factories import is_factory
from qcompress.framing import Frame
from qcompress.gradual import Aim
from qcompress.groups import Groups
from qcompress.memo import Memo
from qcompress.metrics import Metric, companions
from qcompress.progress import Stopwatch
from qcompress.recover.moments import measure_moments
from qcompress.recover.static import StaticRepair
from qcompress.rounds import Paced
from qcompress.settings import Settings
from qcompress.smallest import Sized
from qcompress.workers.bench import Load
from qcompress.workers.contract import Crew
from qcompress.workers.hiring import Wanted, hired

__all__ = ["Job", "wanted"]

_CALIBRATION_CROPS, _SELECTION_CROPS, _LABELLED = 48, 16, 256  # unless the settings say otherwise
_LABELLED_PIXELS = 2**20  # and of images with a class, as many more as make no more pixels


@dataclass(frozen=True, eq=False)
class Job:
    """What every stage of a run works on. `model` is the dense network, on the device of the run.

    `prices` are those of budgets that are measured; `sized` says how the share of the budget was found, if it was sought; `aim`
    is what is to go where that is not what the settings ask for: in a step of several, or after a target that was missed, whose
    rounds are `paced`.
    """

    settings: Settings
    checkpoint: Checkpoint
    model: nn.Module
    groups: Groups
    splits: Splits
    frame: Frame
    metric: Metric
    watch: Stopwatch
    prices: Mapping[str, Price] = field(default_factory=dict)
    aim: Aim | None = None
    memo: Memo = field(default_factory=Memo)
    sized: Sized | None = None
    paced: Paced | None = None

    @cached_property
    def asked(self) -> tuple[Budget, Alignment]:
        """What is to go, and the counts per group that are allowed to meet it. Raises UsageError where they do not."""
        return self.aim or asked(self.groups, self.settings, self.prices)

    def calibration(self) -> CalibrationCrops:
        """The calibration crops of the run, on its device; the same at every call."""
        data, rng = self.settings.data, seeds.stream(self.settings.seed, "calibration crops")
        count = data.calibration_crops or self._count(_CALIBRATION_CROPS)
        return self.splits.calibration.crops(self._crop, count, rng).to(self.settings.device)

    def selection(self) -> SelectionCrops:
        """The crops that the refinement measures on, on the device of the run; the same at every call."""
        data, rng = self.settings.data, seeds.stream(self.settings.seed, "selection crops")
        count = data.selection_crops or self._count(_SELECTION_CROPS)
        return self.splits.selection.crops(self._crop, count, rng).to(self.settings.device)

    def judging(self) -> SelectionCrops:
        """Crops of the selection images that the refinement has not measured on: they decide between its choice and others.

        Of images that are taken whole there are no others than `selection`.
        """
        data, rng = self.settings.data, seeds.stream(self.settings.seed, "judging crops")
        count = 2 * (data.selection_crops or self._count(_SELECTION_CROPS))
        return self.splits.selection.crops(self._crop, count, rng).to(self.settings.device)

    def crew(self) -> AbstractContextManager[Crew]:
        """Who computes scores and the metric of candidates."""
        return hired(wanted(self.settings), self._load, self.watch.say)

    @property
    def static_repair(self) -> StaticRepair:
        """How consumers are refitted from the dense network's second moments, which are measured once, on calibration crops."""
        if self.memo.static_repair is not None:
            return self.memo.static_repair
        with self.watch.stage("second moments", 1.0) as advance:
            moments = measure_moments(self.model, self.groups.consumers, self.calibration(), progress=advance)
        self.memo.static_repair = StaticRepair(self.model, moments)
        return self.memo.static_repair

    def _load(self) -> Load:
        repair = self.static_repair if self.settings.repair == "lstsq" else None
        return Load(self.model, self.groups, self.calibration(), self.selection(), self.metric, repair)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metric of the run, and what is reported beside it."""
        return companions(self.metric, self.frame.task)

    def _count(self, crops: int) -> int:
        """`crops`, or for images with a class as many as a share of right labels needs: small ones are cheap."""
        if self.frame.task != "classification":
            return crops
        return max(_LABELLED, _LABELLED_PIXELS // int(self.splits.calibration.pairs[0].input[0].size))

    @property
    def _crop(self) -> int:
        """Side of the input's crops: as set for the output, or less where an image is smaller; a multiple of the stride."""
        images = (*self.splits.calibration.pairs, *self.splits.selection.pairs)
        side = min(self.settings.data.crop // self.frame.form.scale, *(min(pair.input.shape[1:]) for pair in images))
        return max(int(side) // self.checkpoint.stride, 1) * self.checkpoint.stride


def wanted(settings: Settings) -> Wanted:
    """The workers that the settings ask for."""
    options = settings.checkpoint
    named = (options.arch or "", settings.metric)
    from_here = options.trust_pickle or any(is_factory(name) for name in named)
    return Wanted(settings.workers, settings.ray, settings.device, from_here)
