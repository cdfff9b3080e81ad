"""Refinement on a real network: what each proposer makes of an equal number of metric evaluations.

All start at the QUBO's selection and measure on the same selection crops; the gain is in dB, as cut (before repair), on these
crops and on report images. A seed deals scenes, noise and crops anew. "+ screening, racing" gives random swaps all the help
that the tensor train has: the difference between these two rows is the train itself.

    python benchmarks/refine.py [--checkpoint FILE] [--data DIR] [--evaluations 200] [--sparsities 0.36 0.5] [--align 1]
"""

from __future__ import annotations

import time

from workbench import Bench, arguments, open_bench, spread

from qcompress import surgery
from qcompress.refine.contract import Proposing, RefineResult
from qcompress.refine.hill_climbing import HillClimbing
from qcompress.refine.loop import refine
from qcompress.refine.objective import SlicedMetric
from qcompress.refine.protes import Protes
from qcompress.refine.tensor_train import TensorTrain
from qcompress.selection import Selection


def refined(bench: Bench, start: Selection, proposer: Proposing, helped: bool, evaluations: int, seed: int) -> RefineResult:
    """One refinement; `helped` by the surrogate's screening and by racing."""
    evaluate = SlicedMetric(bench.job.model, bench.groups, bench.job.selection(), bench.job.metric)
    energy = bench.problem().energy
    if helped:
        return refine(evaluate, start, evaluations=evaluations, seed=seed, surrogate=energy, proposer=proposer)
    return refine(evaluate, start, evaluations=evaluations, seed=seed, proposer=proposer, screening=None, racing=None)


def main() -> None:
    """Prints one Markdown table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.36, 0.5])
    options = parser.parse_args()
    inside = options.align > 1
    proposers: dict[str, tuple[Proposing, bool]] = {
        "random swaps": (HillClimbing(inside=inside), False),
        "random swaps + screening, racing": (HillClimbing(inside=inside), True),
        "plain PROTES, cold start": (Protes(), False),
        "tensor train (the tool's own)": (TensorTrain(inside=inside), True),
    }
    if inside:
        del proposers["plain PROTES, cold start"]  # it knows no counts per group
    rows: dict[tuple[float, str], list[tuple[float, float, float]]] = {}
    for seed in range(options.seeds):
        bench = open_bench(options, seed)
        for sparsity in options.sparsities:
            start = bench.select(sparsity, seed=seed)
            before = bench.report_db(surgery.slim(bench.job.model, bench.groups.cuts(start)))
            for name, (proposer, helped) in proposers.items():
                began = time.process_time()
                result = refined(bench, start, proposer, helped, options.evaluations, seed)
                seconds = time.process_time() - began
                after = bench.report_db(surgery.slim(bench.job.model, bench.groups.cuts(result.selection)))
                rows.setdefault((sparsity, name), []).append((result.gain, after - before, seconds))
    print(f"{options.checkpoint.name}, {options.evaluations} evaluations, {options.seeds} seeds, align {options.align}\n")
    print("| pruned | proposer | gain on selection crops, dB | gain on report images, dB | CPU s |\n|---|---|---|---|---|")
    for (sparsity, name), found in rows.items():
        gains, reported, seconds_of = (list(column) for column in zip(*found, strict=True))
        print(f"| {sparsity:.0%} | {name} | {spread(gains)} | {spread(reported)} | {sorted(seconds_of)[len(found) // 2]:.0f} |")


if __name__ == "__main__":
    main()
