"""How channels are chosen: what each way costs in quality, as cut and after the same least-squares repair.

Networks x shares of the units x blocks of channels x ways x seeds, reported on images that no stage has seen. `--shared-data`
is a folder with the checkpoints, images and code that `selection_networks` names (the reference needs none of it). Every cell
is a file under --out: a run that was stopped goes on, a failed cell is kept as failed until --retry. Then prints the tables.

    python benchmarks/selection.py --shared-data DIR --out DIR [--jobs 2] [--networks reference ...] [--seeds 0 1 2]
    python benchmarks/selection.py --shared-data DIR --out DIR --device cuda --jobs 16 --pieces 4 --minutes 9
    python benchmarks/selection.py --shared-data DIR --out DIR --correlation [--masks 60]
    python benchmarks/selection.py --out DIR --only-tables
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from selection_bench import Options
from selection_cells import Cell, Record
from selection_correlation import Correlation, correlation_table, read_correlations
from selection_jobs import Item, measure, pixels_on
from selection_networks import NETWORKS
from selection_tables import markdown
from selection_ways import WAYS
from way_tables import read

SHARES = (0.1, 0.2, 0.36, 0.5, 0.65)
CORRELATED = (0.2, 0.36, 0.5)


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared-data", type=Path, default=Path(), help="folder of checkpoints, images and code")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--sparsities", nargs="+", type=float, help="shares of the units that go")
    parser.add_argument("--aligns", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--bias", action="store_true", help="report the bias repair, too")
    parser.add_argument("--correlation", action="store_true", help="rank correlations of energies with losses instead")
    parser.add_argument("--masks", type=int, default=60, help="selections for a rank correlation")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pixels", type=int, help="in one pass (default 8 crops of 96x96; 16 on an accelerator)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--pieces", type=int, default=1, help="deal the cells of one network and seed to so many processes")
    parser.add_argument("--minutes", type=float, help="begin no cell after that")
    parser.add_argument("--retry", action="store_true", help="measure failed cells again")
    parser.add_argument("--only-tables", action="store_true", help="of the cells that are there")
    parser.add_argument("--calibration-crops", type=int)
    parser.add_argument("--selection-crops", type=int)
    parser.add_argument("--report-images", type=int, help="at most so many, spread evenly")
    return parser


def items(given: argparse.Namespace) -> list[Item]:
    """Every cell that is asked for."""
    if given.correlation:
        grid = itertools.product(given.networks, given.sparsities or CORRELATED, given.seeds)
        return [Correlation(network, share, seed, given.masks) for network, share, seed in grid]
    cells = itertools.product(given.networks, given.sparsities or SHARES, given.aligns, given.ways, given.seeds)
    return [Cell(*cell) for cell in cells]


def main() -> None:
    """Measures what is missing, and prints the tables."""
    given = arguments().parse_args()
    if not given.only_tables:
        options = Options(
            given.shared_data.resolve(),
            given.device,
            given.calibration_crops,
            given.selection_crops,
            given.report_images,
            given.pixels or pixels_on(given.device),
            given.bias,
        )
        measure(given, items(given), options)
    print(
        correlation_table(read_correlations(given.out))
        if given.correlation
        else markdown(read(given.out, Record.model_validate_json))
    )


if __name__ == "__main__":
    main()
