"""Backends against each other: gap to the best known energy, gap to the bound, and time. CPU seconds of one thread.

    OMP_NUM_THREADS=1 python benchmarks/solvers.py [--seeds 5] [--groups 8x64,16x128,20x256,40x256,80x256] [--seconds 120]

The peer, openjij, is no dependency of the package: `pip install openjij` (bench requirement); without it its rows are left out.
Instances: log-normal importance, clustered couplings of as much weight ("redundant"), or 0.05 of it ("important"); half of all
units go, exactly. Gaps are in percent of (mean random selection - best known). A backend that has used more than `--seconds` on
a size is left out of the larger ones, and the last line says so. Every sampler gets the profiles and the repair of the package;
without them it misses the count.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from qcompress.budgets import CountBudget
from qcompress.problem import Problem
from qcompress.search import SearchResult, to_capacity
from qcompress.selection import UnitSpace
from qcompress.solvers import Profiles, Solver, from_dimod, solver

KINDS = {"redundant": 1.0, "important": 0.05}


def instance(groups: int, size: int, strength: float, seed: int) -> Problem:
    """`groups` groups of `size` units: features in size/6 dimensions, couplings max(0, cosine)."""
    rng = np.random.default_rng(seed)
    couplings = []
    for _ in range(groups):
        features = rng.normal(size=(size, max(2, size // 6)))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        c = strength * np.maximum(features @ features.T, 0)
        c = (c + c.T) / 2
        np.fill_diagonal(c, 0)
        couplings.append(c)
    space = UnitSpace.of([(f"g{g}", size) for g in range(groups)], 1)
    return Problem(space, rng.lognormal(size=groups * size), tuple(couplings))


def random_energy(problem: Problem, target: int) -> float:
    """Mean of twenty random selections."""
    rng = np.random.default_rng(0)
    x = np.zeros((20, len(problem.space)), bool)
    for row in x:
        row[rng.choice(len(row), target, replace=False)] = True
    return float(problem.energy(x).mean())


def backends() -> dict[str, Any]:
    """Those that run here, and the peers that are installed."""
    found: dict[str, Any] = {
        "profile": Profiles(),
        "profile, 5x steps": Profiles(steps=1500),
        "neal": solver("neal"),
        "steepest": solver("steepest"),
        "tabu": solver("tabu"),
    }
    try:
        import openjij  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        print("openjij is not installed: left out")
    else:
        found["openjij SA, whole"] = functools.partial(numbered, from_dimod(openjij.SASampler()))
    return found


def numbered(solve: Solver, bqm: Any, *, reads: int, seed: int) -> Any:
    """`solve` on variables called 0, 1, ...: openjij takes tuples for coordinates."""
    names = dict(enumerate(bqm.variables))
    plain = bqm.relabel_variables({name: number for number, name in names.items()}, inplace=False)
    found: Any = solve(plain, reads=reads, seed=seed)
    return found.relabel_variables(names, inplace=False)


def timed(run: Callable[[], SearchResult]) -> tuple[SearchResult, float]:
    """What `run` returns, and its CPU seconds."""
    start = time.process_time()
    return run(), time.process_time() - start


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--groups", default="8x64,16x128,20x256,40x256,80x256")
    parser.add_argument("--seconds", type=float, default=120.0)
    args = parser.parse_args()
    out: set[str] = set()
    print("| instance | backend | gap to best known, %: median (range) | bound's gap, % | s: median (range) |")
    print("|---|---|---|---|---|")
    for size in args.groups.split(","):
        for kind, strength in KINDS.items():
            groups, units = map(int, size.split("x"))
            problems = [instance(groups, units, strength, seed) for seed in range(args.seeds)]
            used = table(f"{size} {kind}", problems, {k: v for k, v in backends().items() if k not in out})
            out |= {name for name, seconds in used.items() if seconds > args.seconds}
    print("left out of larger sizes:", ", ".join(sorted(out)) or "none")


def table(title: str, problems: list[Problem], table: dict[str, Any]) -> dict[str, float]:
    """Prints the rows of one size; returns the CPU seconds that each backend used in all."""
    gaps: dict[str, list[float]] = {name: [] for name in (*table, "greedy + swaps")}
    seconds: dict[str, list[float]] = {name: [] for name in table}
    proven = []
    for problem in problems:
        target = len(problem.space) // 2
        budget = CountBudget(problem.space, target)
        results = {}
        for name, backend in table.items():
            results[name], used = timed(functools.partial(to_capacity, problem, budget, backend, 0))
            seconds[name].append(used)
        best = min(result.energy for result in results.values())
        scale = (random_energy(problem, target) - best) / 100
        for name, result in results.items():
            gaps[name].append((result.energy - best) / scale)
        gaps["greedy + swaps"].append((next(iter(results.values())).greedy_energy - best) / scale)
        bound = max(result.certificate.bound for result in results.values() if result.certificate)
        proven.append((best - bound) / scale)
    for name, found in gaps.items():
        clock = seconds.get(name)
        took = f"{statistics.median(clock):.2f} ({min(clock):.2f} to {max(clock):.2f})" if clock else ""
        spread = f"{statistics.median(found):.4f} ({min(found):.4f} to {max(found):.4f})"
        print(f"| {title} | {name} | {spread} | {statistics.median(proven):.3f} | {took} |", flush=True)
    return {name: sum(clock) for name, clock in seconds.items()}


if __name__ == "__main__":
    main()
