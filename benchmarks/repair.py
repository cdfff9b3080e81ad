"""Repair levels on images that no stage has seen: dB after each, beside the dense network, medians over seeds.

A seed deals scenes, noise and crops anew. Every level is what `prune --recover LEVEL` gives: BatchNorm statistics re-estimated,
or no repair at all, where the selection crops say so.

    python benchmarks/repair.py [--checkpoint FILE] [--data DIR] [--noise gaussian:25] [--seeds 3]
"""

from __future__ import annotations

import numpy as np
from workbench import arguments, open_bench, spread

from qcompress import surgery
from qcompress.qubo import Hybrid, Objective, Taylor
from qcompress.recover import Level
from qcompress.recover.choice import recover_best

LEVELS: tuple[Level, ...] = ("none", "bias", "lstsq")


def main() -> None:
    """Prints one Markdown table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.2, 0.36, 0.5])
    options = parser.parse_args()
    objectives: dict[str, Objective] = {"taylor (greedy)": Taylor(), "hybrid": Hybrid()}
    drops: dict[tuple[float, str, str], list[float]] = {}
    dense = []
    for seed in range(options.seeds):
        bench = open_bench(options, seed)
        job = bench.job
        dense.append(bench.report_db(job.model))
        for sparsity in options.sparsities:
            for name, objective in objectives.items():
                cuts = bench.groups.cuts(bench.select(sparsity, objective, seed))
                slim = surgery.slim(job.model, cuts)
                for level in LEVELS:
                    calibration, selection = job.calibration(), job.selection()
                    found = recover_best(level, job.model, slim, bench.groups, cuts, calibration, selection, job.metric)
                    drops.setdefault((sparsity, name, level), []).append(bench.report_db(found.model) - dense[-1])
    print(f"{options.checkpoint.name}: dense {np.median(dense):.2f} dB, {options.seeds} seeds; difference from dense in dB\n")
    print("| pruned | objective | " + " | ".join(LEVELS) + " |")
    print("|---|---|" + "---|" * len(LEVELS))
    for sparsity in options.sparsities:
        for name in objectives:
            print(f"| {sparsity:.0%} | {name} | " + " | ".join(spread(drops[sparsity, name, level]) for level in LEVELS) + " |")


if __name__ == "__main__":
    main()
