"""Other tasks than denoising: what pruning costs a classifier or an enlarger, in their own metric, after the same repair.

For each share of the filters and each seed: greedy Taylor, the default objective, the same refined, and the better of the last
two on the selection images, which is what `prune` keeps. For classifiers also the default objective with units scored by cross
entropy. Everything is measured on the report images. Finished cells are kept in --out, so a benchmark that was stopped goes on.

    python benchmarks/tasks.py --checkpoint CHECKPOINT --arch MODULE:FACTORY --data DATA --mean imagenet --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qcompress import pipeline, qubo, surgery
from qcompress.cli.options import parse_normalisation
from qcompress.data.reading import resized
from qcompress.metrics_labels import cross_entropy
from qcompress.pipeline import Job
from qcompress.progress import SILENT
from qcompress.recover.choice import Recovered, recover_best
from qcompress.selection import Selection
from qcompress.settings import CheckpointOptions, DataOptions, RefineOptions, SearchOptions, Settings
from qcompress.verify import measure

Cell = dict[str, float]


def prepare(options: argparse.Namespace, sparsity: float, seed: int) -> Job:
    """The network and its images; `seed` deals these to the roles."""
    mean, std = parse_normalisation(options.mean, options.std)
    settings = Settings(
        sparsity=sparsity,
        metric=options.metric,
        seed=seed,
        checkpoint=CheckpointOptions(arch=options.arch),
        data=replace(DataOptions(), source=options.data, mean=mean, std=std),
        search=SearchOptions(align=options.align),
        refine=RefineOptions(evaluations=options.evaluations),
    )
    return pipeline.prepare(options.checkpoint, settings, SILENT, size=options.size)


def repaired(job: Job, selection: Selection) -> tuple[Recovered, float]:
    """The repaired network without the selection, and its metric on the report images."""
    cuts = job.groups.cuts(selection)
    cut = surgery.slim(job.model, cuts)
    found = recover_best("lstsq", job.model, cut, job.groups, cuts, job.calibration(), job.selection(), job.metric.chooser)
    return found, measure(found.model, job.splits.report, job.metrics).mean(job.metric.name)


def unrefined(job: Job, objective: qubo.Objective) -> float:
    """What an objective is worth without refinement."""
    search = replace(job.settings.search, objective=objective)
    choice = pipeline.choose(replace(job, settings=replace(job.settings, search=search, refine=RefineOptions(0))))
    return repaired(job, choice.selected)[1]


def bicubic(job: Job) -> float:
    """What the inputs are worth, enlarged without a network."""
    values = []
    for pair in job.splits.report.pairs:
        enlarged = torch.from_numpy(resized(pair.input, *pair.target.shape[1:]))[None]
        values.append(float(job.metric.per_image(enlarged, torch.from_numpy(pair.target)[None])))
    return float(np.mean(values))


def cell(job: Job) -> Cell:
    """All ways at one share and seed: the metric on the report images."""
    found = {"dense": measure(job.model, job.splits.report, job.metrics).mean(job.metric.name)}
    if job.frame.task == "super-resolution":
        found["bicubic"] = bicubic(job)
    found["greedy Taylor"] = unrefined(job, qubo.OBJECTIVES["taylor"]())
    if job.frame.task == "classification":
        by_labels = replace(job, metric=replace(job.metric, loss=cross_entropy))
        found["hybrid, scored by cross entropy"] = unrefined(by_labels, qubo.Hybrid())
    choice = pipeline.choose(job)
    (plain, value), (refined, better) = (repaired(job, chosen) for chosen in (choice.selected, choice.refined))
    found["hybrid"], found["hybrid, refined"] = value, better
    wins = refined.value > plain.value if job.metric.chooser.higher_is_better else refined.value < plain.value
    found["default: the better on selection images"] = better if wins else value
    return found


def spread(values: Sequence[float]) -> str:
    """Median, and the range in brackets."""
    return f"{np.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def rows(sparsity: float, cells: Sequence[Cell]) -> list[str]:
    """The table's lines for one share: the metric, and the change from dense."""
    lines = []
    for way in cells[0]:
        change = [one[way] - one["dense"] for one in cells]
        lines.append(f"| {sparsity:.0%} | {way} | {spread([one[way] for one in cells])} | {spread(change)} |")
    return lines


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--arch")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--metric", default="auto")
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--align", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.2, 0.3, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{options.evaluations} evaluations, seeds {options.seeds}\n")
    print("| pruned | way | report images | change |\n|---|---|---|---|")
    for sparsity in options.sparsities:
        cells = []
        for seed in options.seeds:
            path = options.out / f"{sparsity:g}_{seed}.json"
            if not path.is_file():
                path.write_text(json.dumps(cell(prepare(options, sparsity, seed))))
            cells.append(json.loads(path.read_text()))
        print("\n".join(rows(sparsity, cells)), flush=True)


if __name__ == "__main__":
    main()
