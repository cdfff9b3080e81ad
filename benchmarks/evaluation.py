"""Seconds per candidate: batched masks, re-sliced shell, and the naive way (copy, prune with a fresh dependency graph, run).

All three measure the same candidates on the same crops, in turn, and must agree; the ratio to the naive way in this run counts.

    python benchmarks/evaluation.py [--candidates 16] [--sparsities 0.2 0.5]
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from workbench import Bench, arguments, open_bench

from qcompress import seeds, surgery, tracing
from qcompress.recover.choice import mean_metric
from qcompress.refine.objective import MaskedMetric, SlicedMetric
from qcompress.selection import Selection

Way = Callable[[Sequence[Selection]], NDArray[np.float64]]


def candidates(start: Selection, count: int, seed: int) -> list[Selection]:
    """`start` with two random swaps inside groups, `count` times."""
    rng, found = seeds.stream(seed, "candidates"), []
    for _ in range(count):
        x = start.x
        for span in rng.permutation(np.array([(s.start, s.stop) for s in start.space.spans]))[:2]:
            inside = np.arange(*span)
            gone, kept = inside[x[inside]], inside[~x[inside]]
            if len(gone) and len(kept) > 1:
                x[rng.choice(gone)], x[rng.choice(kept)] = False, True
        found.append(Selection.of(start.space, x))
    return found


def ways(bench: Bench) -> dict[str, Way]:
    """The three ways, as functions from candidates to their mean metric."""
    job = bench.job
    crops = job.selection()
    sliced, masked = (kind(job.model, bench.groups, crops, job.metric) for kind in (SlicedMetric, MaskedMetric))

    def naive(selections: Sequence[Selection]) -> NDArray[np.float64]:
        values = []
        for selection in selections:
            model = copy.deepcopy(job.model)
            groups = tracing.trace(model, crops.inputs[:1])
            values.append(mean_metric(surgery.slim(model, groups.cuts(selection)), crops, job.metric))
        return np.array(values)

    return {
        "copy, trace, slice": naive,
        "batched masks": lambda selections: masked(selections, range(masked.images)).mean(1),
        "re-sliced shell": lambda selections: sliced(selections, range(sliced.images)).mean(1),
    }


def main() -> None:
    """Prints one Markdown table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.2, 0.5])
    options = parser.parse_args()
    bench = open_bench(options, 0)
    crops = bench.job.selection()
    print(f"threads {torch.get_num_threads()}, {len(crops)} crops of {crops.inputs.shape[-1]}\n")
    print("| pruned | way | seconds a candidate | times faster than naive |\n|---|---|---|---|")
    for sparsity in options.sparsities:
        batches = candidates(bench.select(sparsity), options.candidates, 0)
        seconds: dict[str, list[float]] = {}
        values: dict[str, list[NDArray[np.float64]]] = {}
        for start in range(0, len(batches), 4):
            for name, way in ways(bench).items():
                before = time.process_time()
                values.setdefault(name, []).append(way(batches[start : start + 4]))
                seconds.setdefault(name, []).append((time.process_time() - before) / len(batches[start : start + 4]))
        reference = np.concatenate(values["copy, trace, slice"])
        for name, found in seconds.items():
            assert np.allclose(np.concatenate(values[name]), reference, atol=1e-3), f"{name} disagrees"
            ratio = np.median(np.divide(seconds["copy, trace, slice"], found))
            print(f"| {sparsity:.0%} | {name} | {np.median(found):.3f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
