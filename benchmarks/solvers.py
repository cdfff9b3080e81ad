"""Backends against each other: gap to the best known energy, gap to the bound, and time. CPU seconds of one thread.

    OMP_NUM_THREADS=1 python benchmarks/solvers.py results.jsonl [--seeds 5] [--groups 8x64] [--backends neal,tabu]

Every run is appended to the results file, one line each, and none is done twice: an interrupted benchmark goes on where it
was. The table is made of the whole file.
The peers, openjij and simulated-bifurcation, are no dependencies of the package: `pip install openjij simulated-bifurcation`;
without them their rows are left out.
Instances: log-normal importance, clustered couplings of as much weight ("redundant"), or 0.05 of it ("important"); half of all
units go, exactly. Gaps are in percent of (mean random selection - best known). A backend that has taken more than `--seconds`
on one instance is left out of the larger ones. Every sampler gets the profiles and the repair of the package; without them it
misses the count.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qcompress.budgets import CountBudget
from qcompress.problem import Problem
from qcompress.search import to_capacity
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
        "neal": solver("neal"),
        "steepest": solver("steepest"),
        "tabu": solver("tabu"),
    }
    try:
        import openjij
    except ImportError:
        print("openjij is not installed: left out")
    else:
        found["openjij SA"] = functools.partial(numbered, from_dimod(openjij.SASampler()))
    try:
        import simulated_bifurcation  # noqa: F401
    except ImportError:
        print("simulated-bifurcation is not installed: left out")
    else:
        found["simulated bifurcation"] = bifurcation
    return found


def numbered(solve: Solver, bqm: Any, *, reads: int, seed: int) -> Any:
    """`solve` on variables called 0, 1, ...: openjij takes tuples for coordinates."""
    names = dict(enumerate(bqm.variables))
    plain = bqm.relabel_variables({name: number for number, name in names.items()}, inplace=False)
    found: Any = solve(plain, reads=reads, seed=seed)
    return found.relabel_variables(names, inplace=False)


def bifurcation(bqm: Any, *, reads: int, seed: int) -> Any:
    """`reads` agents of ballistic simulated bifurcation on the dense matrix of the whole problem."""
    import simulated_bifurcation as sb
    import torch
    from dimod import SampleSet

    torch.manual_seed(seed)
    order = list(bqm.variables)
    linear, (row, column, value), offset = bqm.to_numpy_vectors(variable_order=order)
    matrix = torch.zeros(len(order), len(order))
    matrix[torch.tensor(row).long(), torch.tensor(column).long()] = torch.tensor(value, dtype=torch.float32)
    vector = torch.tensor(linear, dtype=torch.float32)
    x, _ = sb.minimize(
        matrix, vector, float(offset), domain="binary", agents=reads, max_steps=2000, best_only=False, verbose=False
    )
    return SampleSet.from_samples_bqm((x.numpy().astype(np.int8), order), bqm)  # type: ignore[no-untyped-call]


def measure(problem: Problem, backend: Any) -> dict[str, float]:
    """Energies, bound and CPU seconds of one search, certificate included."""
    target = len(problem.space) // 2
    start = time.process_time()
    result = to_capacity(problem, CountBudget(problem.space, target), backend, 0)
    seconds = time.process_time() - start
    bound = result.certificate.bound if result.certificate else float("-inf")
    return {
        "energy": result.energy,
        "greedy": result.greedy_energy,
        "bound": bound,
        "random": random_energy(problem, target),
        "seconds": seconds,
    }


def main() -> None:
    """Runs what the results file does not hold yet; prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--groups", default="8x64,16x128,20x256,40x256,80x256")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--backends", help="names, separated by commas; all by default")
    args = parser.parse_args()
    chosen = {k: v for k, v in backends().items() if args.backends is None or k in args.backends.split(",")}
    known = read(args.results)
    for size in args.groups.split(","):
        slow = {backend for (*_, backend), run in known.items() if run["seconds"] > args.seconds}
        groups, units = map(int, size.split("x"))
        for kind, strength in KINDS.items():
            for seed in range(args.seeds):
                for name, backend in chosen.items():
                    key = (size, kind, seed, name)
                    if key in known or name in slow:
                        continue
                    known[key] = measure(instance(groups, units, strength, seed), backend)
                    with args.results.open("a") as file:
                        file.write(json.dumps([*key, known[key]]) + "\n")
    print("| instance | backend | seeds | gap to best known, %: median (range) | bound's gap, % | CPU s: median (range) |")
    print("|---|---|---|---|---|---|")
    for line in table(known):
        print(line)


Runs = dict[tuple[str, str, int, str], dict[str, float]]


def read(path: Path) -> Runs:
    """The runs of a results file; none where it does not exist."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(size, kind, seed, backend): run for size, kind, seed, backend, run in lines}


def table(known: Runs) -> Iterator[str]:
    """One line for every instance and backend."""
    for size, kind in dict.fromkeys((size, kind) for size, kind, *_ in known):
        rows: dict[str, list[tuple[float, float, float | None]]] = {}
        for seed in sorted({key[2] for key in known if key[:2] == (size, kind)}):
            runs = {key[3]: run for key, run in known.items() if key[:3] == (size, kind, seed)}
            best = min(run["energy"] for run in runs.values())
            scale = (next(iter(runs.values()))["random"] - best) / 100
            for name, run in runs.items():
                entry = ((run["energy"] - best) / scale, (run["energy"] - run["bound"]) / scale, run["seconds"])
                rows.setdefault(name, []).append(entry)
            some = next(iter(runs.values()))
            entry_greedy = ((some["greedy"] - best) / scale, (some["greedy"] - some["bound"]) / scale, None)
            rows.setdefault("greedy + swaps", []).append(entry_greedy)
        for name, entries in rows.items():
            gaps, proven, clock = zip(*entries, strict=True)
            took = "" if None in clock else spread([s for s in clock if s is not None], 2)
            middle = statistics.median(proven)
            behind = spread(gaps, 4) if len(rows) > 2 else "no rival"  # beside itself and greedy
            yield f"| {size} {kind} | {name} | {len(gaps)} | {behind} | {middle:.3f} | {took} |"


def spread(values: Any, digits: int) -> str:
    """Median (least to largest)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
