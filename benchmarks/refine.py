"""Refinement on a real network: what each proposer makes of an equal number of metric evaluations.

All start at the QUBO's selection and measure on the same selection crops; the gain is in dB, as cut (before repair), on these
crops and on report images. A seed deals scenes, noise and crops anew. "+ screening, racing" gives random swaps all the help
that the tensor train has: the difference between these two rows is the train itself. Needs the extra `bench` (pymoo).

    python benchmarks/refine.py [--checkpoint FILE] [--data DIR] [--evaluations 200] [--sparsities 0.36 0.5] [--align 1]
                                [--only NAME ...] [--batch 1 4 8]
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from genetic import Genetic
from workbench import Bench, arguments, open_bench, spread

from qcompress import surgery
from qcompress.refine.contract import Proposing, RefineResult
from qcompress.refine.hill_climbing import HillClimbing
from qcompress.refine.loop import refine
from qcompress.refine.objective import SlicedMetric
from qcompress.refine.protes import Protes
from qcompress.refine.tensor_train import TensorTrain
from qcompress.selection import Selection
from qcompress.settings import RefineOptions


@dataclass(frozen=True)
class Row:
    """One way to refine; `helped` by the surrogate's screening and by racing."""

    proposer: Proposing
    helped: bool = True
    inside: Proposing | None = None  # the same for counts per group that stay; None: it knows none


ROWS = {
    "random swaps": Row(HillClimbing(), False, HillClimbing(inside=True)),
    "random swaps + screening, racing": Row(HillClimbing(), True, HillClimbing(inside=True)),
    "plain PROTES, cold start": Row(Protes(), False),
    "genetic algorithm": Row(Genetic(), False, Genetic(inside=True)),
    "genetic algorithm + screening, racing": Row(Genetic(), True, Genetic(inside=True)),
    "tensor train (the tool's own)": Row(TensorTrain(), True, TensorTrain(inside=True)),
}


def rows(names: list[str] | None, inside: bool) -> dict[str, Row]:
    """The rows that are asked for, or all; with `inside` those that can keep the counts per group."""
    chosen = {name: ROWS[name] for name in names or ROWS}
    if not inside:
        return chosen
    return {name: replace(row, proposer=row.inside) for name, row in chosen.items() if row.inside}


def refined(bench: Bench, start: Selection, row: Row, evaluations: int, batch: int, seed: int) -> RefineResult:
    """One refinement."""
    evaluate = SlicedMetric(bench.job.model, bench.groups, bench.job.selection(), bench.job.metric)
    surrogate = bench.problem().energy
    if row.helped:
        return refine(
            evaluate, start, evaluations=evaluations, seed=seed, surrogate=surrogate, proposer=row.proposer, batch=batch
        )
    return refine(
        evaluate,
        start,
        evaluations=evaluations,
        seed=seed,
        proposer=row.proposer,
        screening=None,
        racing=None,
        batch=batch,
    )


def main() -> None:
    """Prints one Markdown table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.36, 0.5])
    parser.add_argument("--batch", type=int, nargs="+", default=[RefineOptions().batch], help="candidates measured at a time")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="NAME", help=f"some of: {', '.join(ROWS)}")
    options = parser.parse_args()
    found: dict[tuple[float, str, int], list[tuple[float, float, float]]] = {}
    for seed in range(options.seeds):
        bench = open_bench(options, seed)
        for sparsity in options.sparsities:
            start = bench.select(sparsity, seed=seed)
            before = bench.report_db(surgery.slim(bench.job.model, bench.groups.cuts(start)))
            for name, row in rows(options.only, options.align > 1).items():
                for batch in options.batch:
                    began = time.process_time()
                    result = refined(bench, start, row, options.evaluations, batch, seed)
                    seconds = time.process_time() - began
                    after = bench.report_db(surgery.slim(bench.job.model, bench.groups.cuts(result.selection)))
                    found.setdefault((sparsity, name, batch), []).append((result.gain, after - before, seconds))
    print(f"{options.checkpoint.name}, {options.evaluations} evaluations, {options.seeds} seeds, align {options.align}\n")
    print("| pruned | proposer | batch | gain on selection crops, dB | gain on report images, dB | CPU s |")
    print("|---|---|---|---|---|---|")
    for (sparsity, name, batch), of_seeds in found.items():
        gains, reported, seconds_of = (list(column) for column in zip(*of_seeds, strict=True))
        median_s = sorted(seconds_of)[len(of_seeds) // 2]
        print(f"| {sparsity:.0%} | {name} | {batch} | {spread(gains)} | {spread(reported)} | {median_s:.0f} |")


if __name__ == "__main__":
    main()
