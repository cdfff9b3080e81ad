"""What least-squares repair costs with and without keeping what comes before a layer: CPU seconds of both, in turn.

python benchmarks/repair_time.py [--checkpoint FILE] [--data DIR] [--noise gaussian:25] [--rounds 3] [--sparsity 0.36]
"""

from __future__ import annotations

import copy
import time

import numpy as np
import torch
from workbench import arguments, open_bench

from qcompress import surgery
from qcompress.recover.lstsq import refit
from qcompress.reuse import LIMIT


def main() -> None:
    """Prints one Markdown table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--sparsity", type=float, default=0.36)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bench = open_bench(options, 0)
    job, crops = bench.job, bench.job.calibration()
    cuts = bench.groups.cuts(bench.select(options.sparsity))
    thin = surgery.slim(job.model, cuts)
    seconds: dict[int, list[float]] = {0: [], LIMIT: []}
    for _ in range(options.rounds):
        states = []
        for limit, found in seconds.items():
            model = copy.deepcopy(thin)
            before = time.process_time()
            refit(job.model, model, bench.groups, cuts, crops, ridge=1e-3, batch=8, positions=20_000, limit=limit)
            found.append(time.process_time() - before)
            states.append(model.state_dict())
        assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()), "the networks differ"
    plain, kept = seconds.values()
    ratios = np.divide(plain, kept)
    print(f"{len(crops)} crops of {crops.inputs.shape[-1]}, {len(bench.groups.layers)} layers, {options.rounds} rounds\n")
    print("| network | CPU s, every pass from the start | CPU s, reused | times faster |\n|---|---|---|---|")
    middle = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
    print(f"| {options.checkpoint.name} | {np.median(plain):.1f} | {np.median(kept):.1f} | {middle} |")


if __name__ == "__main__":
    main()
