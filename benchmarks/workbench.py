"""What every benchmark on a real network begins with: the network, its groups, images, scores and the searched selection."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from qcompress import pipeline, qubo, scoring, seeds
from qcompress.budgets import CountBudget, budget
from qcompress.data.images import Pair, Splits
from qcompress.data.splits import Role, from_pairs
from qcompress.groups import Groups
from qcompress.pipeline import Job
from qcompress.problem import Problem
from qcompress.progress import SILENT
from qcompress.recover.choice import mean_metric
from qcompress.scores import Scores
from qcompress.search import to_capacity
from qcompress.selection import Selection
from qcompress.settings import CheckpointOptions, DataOptions, Settings
from qcompress.solvers import SOLVERS
from qcompress.verify import measure

__all__ = ["Bench", "arguments", "dealt", "open_bench", "spread"]


@dataclass(frozen=True, eq=False)
class Bench:
    """A network ready to be selected from; `scores` come from the calibration crops."""

    job: Job
    scores: Scores
    align: int

    @property
    def groups(self) -> Groups:
        """Its coupled groups."""
        return self.job.groups

    def problem(self, objective: qubo.Objective | None = None) -> Problem:
        """The QUBO of `objective` (default: the tool's own)."""
        return qubo.formulate(objective or qubo.Hybrid(), self.scores)

    def select(self, sparsity: float, objective: qubo.Objective | None = None, seed: int = 0) -> Selection:
        """What the search chooses at this share of the units."""
        target = budget("filters", sparsity, self.groups.space, self.groups.params, self.groups.macs)
        assert isinstance(target, CountBudget)
        return to_capacity(self.problem(objective), target, SOLVERS["profile"], seed, align=self.align).selection

    def report_db(self, model: torch.nn.Module) -> float:
        """Mean PSNR in dB on the report images."""
        return measure(model, self.job.splits.report).mean("psnr")

    def calibration_db(self, model: torch.nn.Module) -> float:
        """Mean PSNR in dB on the calibration crops."""
        return mean_metric(model, self.job.calibration(), self.job.metric)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("reference"))
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--noise", default=None)
    parser.add_argument("--arch", default=None)
    parser.add_argument("--report-scenes", nargs="+", help="scenes to report on; the others are dealt to the two other roles")
    parser.add_argument("--align", type=int, default=1, help="keep channels in multiples of this")
    parser.add_argument("--crop", type=int, default=DataOptions().crop)
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def open_bench(options: argparse.Namespace, seed: int) -> Bench:
    """Loads, traces and scores; `seed` deals the scenes to the three roles and draws noise and crops."""
    data = replace(DataOptions(), source=options.data, noise=options.noise, crop=options.crop)
    settings = Settings(seed=seed, data=data, checkpoint=CheckpointOptions(arch=options.arch))
    job = pipeline.prepare(options.checkpoint, settings, SILENT, size=64)
    if options.report_scenes:
        images = job.splits
        pairs = (*images.calibration.pairs, *images.selection.pairs, *images.report.pairs)
        job = replace(job, splits=dealt(pairs, frozenset(options.report_scenes), seed, images.source))
    return Bench(job, scoring.score(job.model, job.groups, job.calibration(), job.metric.loss), options.align)


def dealt(pairs: Sequence[Pair], report: frozenset[str], seed: int, source: str) -> Splits:
    """`pairs` in their roles: the scenes in `report` to the report; of the others, dealt by the seed, a third to selection."""
    others = sorted({pair.scene for pair in pairs} - report)
    chosen = seeds.stream(seed, "benchmark scenes").permutation(others)[: len(others) // 3].tolist()
    roles: dict[str, Role] = {scene: "selection" if scene in chosen else "calibration" for scene in others}
    return from_pairs(pairs, seed=seed, source=source, assign=roles | dict.fromkeys(report, "report"))


def spread(values: list[float]) -> str:
    """Median, and the range in brackets."""
    return f"{np.median(values):+.3f} [{min(values):+.3f}, {max(values):+.3f}]"
