"""How well a latency table predicts whole networks that were not used to make it, beside what MACs predict.

python benchmarks/latency_table.py [--checkpoint FILE ...] [--size 256] [--networks 12] [--seed 0]

Each network keeps random allowed counts of every group, in blocks of this processor. All of them and the dense one are timed in
the rounds of the table, each twice: what is shown is the error of the table and not what else the machine does between two
measurements. By the CPU time of one thread; what counts is the speedup over the dense network. How far the two times of each
are apart is shown, too: nothing can be predicted more closely than that.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qcompress import loading, processor, profiling, seeds, tracing
from qcompress.alignment import Alignment
from qcompress.exporters import EXPORTERS, micro
from qcompress.exporters.anatomy import dissect
from qcompress.latency_model import LatencyModel
from qcompress.progress import SILENT


def rows(path: Path, size: int, count: int, seed: int) -> list[str]:
    """The lines of the table for one checkpoint."""
    checkpoint = loading.load(path)
    groups = tracing.trace(checkpoint.model, torch.zeros(checkpoint.example_shape(size)))
    jobs = profiling.plan(checkpoint, groups)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "dense.onnx"
        EXPORTERS["onnx"](checkpoint.model, torch.zeros(groups.example_shape), file, opset=18, dynamic=False, metadata={})
        anatomy = dissect(file.read_bytes(), groups.layers, groups.example_shape)
    layers = {layer.name: layer for layer in groups.layers}
    allowed = Alignment(groups.space, processor.block(), groups.widths).allowed
    rng = seeds.stream(seed, "latency benchmark")
    pruned = [{}, *({n: int(rng.choice(a)) for n, a in zip(groups.space.groups, allowed, strict=True)} for _ in range(count))]
    whole = [micro.whole(anatomy, layers, profiling.narrowed(groups, counts)) for counts in pruned]
    table = profiling.time_here(replace(jobs, models=(*jobs.models, *whole, *whole)), SILENT)
    model = LatencyModel(table, groups)
    first, second = np.array(table.times_ns[len(jobs.models) :], float).reshape(2, -1)
    taken = (first + second) / 2
    speedup, again = taken[0] / taken[1:], (first[0] / first[1:]) / (second[0] / second[1:])
    ways = {
        "latency table": np.array([float(model(counts)) for counts in pruned]),
        "MACs in blocks": np.array([float(groups.macs(counts, processor.block())) for counts in pruned]),
        "MACs": np.array([float(groups.macs(counts)) for counts in pruned]),
    }
    ratios = {name: costs[0] / costs[1:] / speedup for name, costs in ways.items()} | {"another measurement": again}
    found = []
    for name, ratio in ratios.items():
        off = 100 * np.abs(ratio - 1)
        found.append(
            f"| {path.stem} | {speedup.min():.2f} to {speedup.max():.2f} | {name} | {np.median(off):.1f} | {off.max():.1f} |"
        )
    return found


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[Path("reference")])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| network | speedups measured | predicted by | median error, % | largest, % |")
    print("|---|---|---|---:|---:|")
    for path in options.checkpoint:
        print("\n".join(rows(path, options.size, options.networks, options.seed)), flush=True)


if __name__ == "__main__":
    main()
