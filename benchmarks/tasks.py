"""Other tasks than denoising: what pruning costs a classifier, an enlarger, a segmenter, in their own metrics.

Medians over seeds, the range in brackets. The greedy baseline (Taylor, the same repair, no refinement) runs beside the tool's
default. Finished runs are kept in --out and not repeated, so that a benchmark that was stopped goes on.

    python benchmarks/tasks.py --checkpoint CHECKPOINT --arch MODULE:FACTORY --data DATA --out FOLDER -- --mean imagenet

What follows -- goes to `qcompress prune` as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from qcompress.cli.main import main as qcompress
from qcompress.reports import Report, read

WAYS = {"default": [], "greedy Taylor": ["--objective", "taylor", "--refine-evals", "0"]}


def run(options: argparse.Namespace, way: str, sparsity: float, seed: int) -> Report:
    """The report of one run, from its folder where it is there already."""
    folder: Path = options.out / f"{way.replace(' ', '-')}_{sparsity:g}_{seed}"
    if not (folder / "report.json").is_file():
        arguments = ["prune", options.checkpoint, "-s", f"{sparsity:g}", "--seed", str(seed), "-o", str(folder), "--quiet"]
        arguments += ["--arch", options.arch] * bool(options.arch) + ["--data", options.data] * bool(options.data)
        code = qcompress([*arguments, *WAYS[way], *options.more])
        if code:
            raise SystemExit(f"qcompress ended with {code}")
    return read(folder / "report.json")


def spread(values: list[float], digits: int = 2) -> str:
    """Median, and the range in brackets."""
    return f"{np.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def row(sparsity: float, way: str, reports: list[Report]) -> str:
    """One line of the table."""
    metrics = [report.metric for report in reports]
    dense, slim = ([float(getattr(m, name) or 0.0) for m in metrics] for name in ("dense", "artifact"))
    macs = [100 * (1 - (r.cost.macs.slim or 0) / (r.cost.macs.dense or 1)) for r in reports]
    speeds = [float(r.latency.speedup or 0.0) for r in reports if r.latency is not None]
    change = [after - before for before, after in zip(dense, slim, strict=True)]
    cells = (f"{sparsity:.0%}", way, spread(dense), spread(slim), spread(change), spread(macs, 1), spread(speeds))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--arch")
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("more", nargs="*", help="options of qcompress prune, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for sparsity in options.sparsities:
        for way in WAYS:
            reports = [run(options, way, sparsity, seed) for seed in range(options.seeds)]
            lines.append((row(sparsity, way, reports), reports[0]))
    first = lines[0][1]
    unit = f" ({first.metric.unit})" if first.metric.unit else ""
    print(f"{first.metric.name}{unit} on {first.metric.images} report images, {options.seeds} seeds\n")
    print("| pruned | way | dense | slim | change | MACs gone, % | speedup |\n|---|---|---|---|---|---|---|")
    print("\n".join(line for line, _ in lines))


if __name__ == "__main__":
    main()
