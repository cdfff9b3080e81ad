"""What is done to every selection alike, however it was chosen: cut, repaired, reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from selection_bench import Bench
from torch import nn

from qcompress.recover.bias import fold_means
from qcompress.recover.choice import recover_best
from qcompress.scoring import mean_inputs
from qcompress.selection import Selection

__all__ = ["Seconds", "biased", "refitted"]


@dataclass(frozen=True)
class Seconds:
    """Of the parts of a cell, by name."""

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str, bench: Bench) -> Iterator[None]:
        """Adds the seconds of the block to `part`."""
        began = bench.clock()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + bench.clock() - began


def biased(bench: Bench, selection: Selection) -> nn.Module:
    """After the bias repair, as `recover("bias")` does it; the dense network's means are shared by all selections."""
    slim = bench.cut(selection)
    means = bench.once(
        "mean inputs",
        lambda: mean_inputs(bench.job.model, bench.groups.consumers, bench.calibration, bench.batch),
    )
    fold_means(bench.job.model, slim, bench.groups.cuts(selection), means.value)
    return slim


def refitted(bench: Bench, selection: Selection) -> tuple[nn.Module, bool]:
    """After least squares as `prune` does it: static or in sequence, as the selection crops prefer, the same for all ways.

    And whether BatchNorm statistics were re-estimated, as the selection crops wanted it.
    """
    job, cuts = bench.job, bench.groups.cuts(selection)
    calibration, chosen, chooser = bench.calibration, bench.selection, job.metric.chooser
    slim = bench.cut(selection)
    found = recover_best(
        "lstsq", job.model, slim, bench.groups, cuts, calibration, chosen, chooser, job.static_repair, batch=bench.batch
    )
    return found.model, found.batchnorm_reestimated
