"""Candidates per second for this process, two processes, and one and two actors of a Ray cluster that is started here.

All are asked in turn, for the same candidates in batches (1: the image chunks of one candidate are what is spread),
and must give the same bits. What counts is the ratio to this process (--workers 1) in the same round: median and range. On a
machine with other work the wall clock says little; so the same ratio is given of CPU seconds, those of the process that spent
the most, as /proc has them: what the wall clock would say if every process had a core to itself.

    OMP_NUM_THREADS=1 python benchmarks/workers.py [--rounds 5] [--candidates 8] [--batches 1 8]
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evaluation import candidates
from numpy.typing import NDArray
from workbench import arguments, open_bench

from qcompress.selection import Selection
from qcompress.workers.bench import images_per_task
from qcompress.workers.contract import Crew
from qcompress.workers.hiring import Wanted, hired
from qcompress.workers.measuring import SpreadMetric


def crews() -> dict[str, Wanted]:
    """Those that can be had here."""
    found = {"this process": Wanted(1), "2 processes": Wanted(2)}
    if importlib.util.find_spec("ray") is not None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        ray.init(address="local", num_cpus=3, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        found |= {"1 Ray actor": Wanted(1, ray="auto"), "2 Ray actors": Wanted(2, ray="auto")}
    return found


def cpu_seconds() -> dict[int, float]:
    """What this process and all that descend from it have spent, by process id."""
    parents, spent = dict[int, int](), dict[int, float]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(") ")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
            spent[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    ours = {os.getpid()}
    for _ in range(8):  # generations
        ours |= {child for child, parent in parents.items() if parent in ours}
    return {process: spent[process] for process in ours if process in spent}


@dataclass(frozen=True)
class Measured:
    """Candidates per second of wall time, and per CPU second of the busiest process; their values."""

    speed: float
    cpu_speed: float
    values: NDArray[np.float64]


def measure(crew: Crew, images: int, chunk: int, batches: list[list[Selection]]) -> Measured:
    """One round of one crew."""
    evaluate = SpreadMetric(crew, images, chunk)
    before, began = cpu_seconds(), time.perf_counter()
    values = np.concatenate([evaluate(batch, range(images)) for batch in batches])
    seconds, after = time.perf_counter() - began, cpu_seconds()
    busiest = max(after[process] - before.get(process, 0.0) for process in after)
    return Measured(len(values) / seconds, len(values) / busiest, values)


def main() -> None:
    """Prints one Markdown table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    bench = open_bench(options, 0)
    load, asked = bench.job._load(), candidates(bench.select(0.5), options.candidates, 1, 0)
    images, chunk = len(load.selection), images_per_task(load.selection)
    print(f"{os.cpu_count()} cores, {images} crops of {load.selection.inputs.shape[-1]} in chunks of {chunk}\n")
    print("| candidates at a time | who | candidates a second | wall clock: times as fast | CPU: times as fast |")
    print("|---|---|---|---|---|")
    with ExitStack() as stack:
        hands = {name: stack.enter_context(hired(wanted, lambda: load, print)) for name, wanted in crews().items()}
        for crew in hands.values():
            measure(crew, images, chunk, [asked])  # until all have started
        for size in options.batches:
            batches = [asked[start : start + size] for start in range(0, len(asked), size)]
            rounds = [
                {name: measure(crew, images, chunk, batches) for name, crew in hands.items()} for _ in range(options.rounds)
            ]
            for name in hands:
                pairs = [(found[name], found["this process"]) for found in rounds]
                assert all(np.array_equal(one.values, other.values) for one, other in pairs), f"{name} computes other bits"
                speed = np.median([one.speed for one, _ in pairs])
                wall = _ratios([one.speed / other.speed for one, other in pairs])
                cpu = _ratios([one.cpu_speed / other.cpu_speed for one, other in pairs])
                print(f"| {size} | {name} | {speed:.1f} | {wall} | {cpu} |")


def _ratios(values: list[float]) -> str:
    return f"{np.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
