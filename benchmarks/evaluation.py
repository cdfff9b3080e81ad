"""Seconds per candidate, lever by lever, against the naive way (copy, trace, slice, run): CPU seconds, all ways in turn.

Candidates are what the refinement asks: swaps of two units, in any groups, around the searched selection. Every way measures
the same ones on the same crops, and must agree with the naive way. With --decisions: do convolutions in bfloat16 decide as
float32 does?

    python benchmarks/evaluation.py [--candidates 25] [--sparsities 0.5] [--swaps 1] [--decisions 200]
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from workbench import Bench, arguments, open_bench

from qcompress import seeds, surgery, tracing
from qcompress.recover.choice import mean_metric
from qcompress.refine.objective import MaskedMetric, SlicedMetric
from qcompress.refine.swaps import swapped
from qcompress.selection import Selection

Way = Callable[[Sequence[Selection]], NDArray[np.float64]]
_NAIVE = "copy, trace, slice"
_CLOSE = 0.05  # dB between bfloat16 and float32


def candidates(start: Selection, count: int, swaps: int, seed: int) -> list[Selection]:
    """`start` with `swaps` exchanges of two units each, `count` times."""
    masks = swapped(start.space, start.x, np.full(2 * count, swaps), seeds.stream(seed, "candidates"))
    return [Selection.of(start.space, mask) for mask in masks[:count]]


def ways(bench: Bench) -> dict[str, Way]:
    """All ways, as functions from candidates to their mean metric."""
    job = bench.job
    crops = job.selection()

    def naive(selections: Sequence[Selection]) -> NDArray[np.float64]:
        values = []
        for selection in selections:
            model = copy.deepcopy(job.model)
            groups = tracing.trace(model, crops.inputs[:1])
            values.append(mean_metric(surgery.slim(model, groups.cuts(selection)), crops, job.metric))
        return np.array(values)

    def sliced(batch: int, limit: int = 2**31, precision: torch.dtype | None = None) -> Way:
        evaluate = SlicedMetric(job.model, bench.groups, crops, job.metric, batch, limit=limit, precision=precision)
        return lambda selections: evaluate(selections, range(evaluate.images)).mean(1)

    masked = MaskedMetric(job.model, bench.groups, crops, job.metric)
    return {
        _NAIVE: naive,
        "batched masks": lambda selections: masked(selections, range(masked.images)).mean(1),
        "re-sliced shell, chunks of 16": sliced(16, limit=0),
        "re-sliced shell, chunks of 4": sliced(4, limit=0),
        "reuse, chunks of 16": sliced(16),
        "reuse, chunks of 8": sliced(8),
        "reuse, chunks of 4": sliced(4),
        "bfloat16, chunks of 16": sliced(16, limit=0, precision=torch.bfloat16),
        "bfloat16 and reuse, chunks of 16": sliced(16, precision=torch.bfloat16),
        "bfloat16 and reuse, chunks of 8": sliced(8, precision=torch.bfloat16),
    }


def times(bench: Bench, sparsity: float, options: argparse.Namespace) -> None:
    """Prints the rows of one sparsity. `--batch` candidates are handed over at a time."""
    start = bench.select(sparsity)
    asked = candidates(start, options.candidates, options.swaps, 0)
    seconds: dict[str, list[float]] = {}
    values: dict[str, list[NDArray[np.float64]]] = {}
    table = ways(bench)
    for name, way in table.items():
        if name != _NAIVE:
            way([start])
            way(asked[:1])
    for begin in range(1, len(asked), options.batch):
        part = asked[begin : begin + options.batch]
        for name, way in table.items():
            before = time.process_time()
            values.setdefault(name, []).append(way(part))
            seconds.setdefault(name, []).append((time.process_time() - before) / len(part))
    reference = np.concatenate(values[_NAIVE])
    for name, found in seconds.items():
        assert np.allclose(np.concatenate(values[name]), reference, atol=_CLOSE if "bfloat16" in name else 1e-3), name
        ratios = np.divide(seconds[_NAIVE], found)
        total = np.sum(seconds[_NAIVE]) / np.sum(found)
        low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
        print(f"| {sparsity:.0%} | {name} | {np.mean(found):.3f} | {total:.1f} | {middle:.1f} ({low:.1f} to {high:.1f}) |")


def decisions(bench: Bench, sparsity: float, count: int) -> None:
    """Prints how far bfloat16 ranks candidates as float32 does, and how often the two disagree on which of two is better."""
    job = bench.job
    crops = job.selection()
    start = bench.select(sparsity)
    asked = [start, *candidates(start, count - count // 2, 1, 1), *candidates(start, count // 2, 3, 2)]
    full, half = (
        SlicedMetric(job.model, bench.groups, crops, job.metric, precision=precision)(asked, range(len(crops)))
        for precision in (None, torch.bfloat16)
    )
    a, b = full.mean(1), half.mean(1)
    noise = (b - a) - (b - a).mean()
    print(f"\n{sparsity:.0%}, {len(asked)} candidates")
    print(f"float32: {a.min():.3f} to {a.max():.3f} dB, deviation {a.std():.4f}")
    print(f"bfloat16 less float32: {np.mean(b - a):+.4f} dB, deviation {noise.std():.5f}, largest {np.abs(noise).max():.5f}")
    print(f"Spearman {spearmanr(a, b).statistic:.5f}, Kendall {kendalltau(a, b).statistic:.5f}")
    print(f"the best is the same: {a.argmax() == b.argmax()} (it loses {a.max() - a[b.argmax()]:.5f} dB)")
    pairs = np.array(list(itertools.combinations(range(len(a)), 2)))
    apart, alike = (
        np.abs(a[pairs[:, 0]] - a[pairs[:, 1]]),
        (a[pairs[:, 0]] > a[pairs[:, 1]]) == (b[pairs[:, 0]] > b[pairs[:, 1]]),
    )
    against = (a[1:] > a[0]) == (b[1:] > b[0])
    print(f"better than the start or not: {against.mean():.1%} alike ({int((a[1:] > a[0]).sum())} of {len(a) - 1} are better)")
    for low, high in ((0, np.inf), (0, 1e-3), (1e-3, 1e-2), (1e-2, 1e-1), (1e-1, np.inf)):
        chosen = (apart >= low) & (apart < high)
        if chosen.any():
            print(f"pairs {low:g} to {high:g} dB apart: {alike[chosen].mean():.2%} of {chosen.sum()} decided alike")


def main() -> None:
    """Prints one Markdown table, and what bfloat16 decides."""
    parser = arguments(str(__doc__))
    parser.add_argument("--candidates", type=int, default=25)
    parser.add_argument("--batch", type=int, default=1, help="candidates handed over at a time")
    parser.add_argument("--swaps", type=int, default=1)
    parser.add_argument("--sparsities", type=float, nargs="*", default=[0.2, 0.5])
    parser.add_argument("--decisions", type=int, default=0, help="candidates for the comparison of bfloat16 with float32")
    options = parser.parse_args()
    bench = open_bench(options, 0)
    crops = bench.job.selection()
    print(f"threads {torch.get_num_threads()}, {len(crops)} crops of {crops.inputs.shape[-1]}\n")
    if options.candidates:
        print(
            "| pruned | way | CPU s a candidate | times faster, all candidates | median (10 to 90 %) |\n|---|---|---|---|---|"
        )
    for sparsity in options.sparsities:
        if options.candidates:
            times(bench, sparsity, options)
        if options.decisions:
            decisions(bench, sparsity, options.decisions)


if __name__ == "__main__":
    main()
