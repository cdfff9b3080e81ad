"""Pruning and quantisation chosen together against other ways of choosing them, for files of the same size.

Networks x widths that are allowed x ways x seeds. All keep whole blocks of 16 channels where `Alignment` has them, begin with
the same network, and are treated alike afterwards as `compress` does it: cut, refitted, weights put on their grids. Reported is
the simulated network (`quantise.simulated`) on images that no stage has seen; no file is written, sizes are those of
`joint.Sizes`. Searches measure `--evaluations` choices each. `--shared-data` is a folder with the checkpoints, images and code
that `selection_networks` names (the reference needs none of it). Every cell is a file under --out: a run that was stopped goes
on, a failed cell is kept as failed until --retry. Then prints the tables. Needs the extra `bench` (pymoo) for the genetic ways.

    python benchmarks/compression.py --shared-data DIR --out DIR --device cuda --jobs 14 --pieces 4 --minutes 4
    python benchmarks/compression.py --out DIR --networks reference --seeds 0 --evaluations 20 --ways joint random
    python benchmarks/compression.py --out DIR --only-tables
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from compression_cells import Compressed, Record
from compression_ways import SETS, WAYS
from selection_jobs import measure, options_of
from selection_networks import NETWORKS
from way_tables import Show, dense, failures, read, spread, table

from qcompress.widths import BITS

DEFAULT = ("halfunet64-sidd", "dncnn25-gray", "reference")


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared-data", type=Path, default=Path(), help="folder of checkpoints, images and code")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(DEFAULT))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--widths", nargs="+", choices=SETS, default=list(SETS), help="sets of widths that layers may have")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25], help="size, as a share of the dense float32 file")
    parser.add_argument("--evaluations", type=int, default=300, help="of a search")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--pieces", type=int, default=1, help="deal the cells of one network and seed to so many processes")
    parser.add_argument("--minutes", type=float, help="begin no cell after that")
    parser.add_argument("--retry", action="store_true", help="measure failed cells again")
    parser.add_argument("--only-tables", action="store_true", help="of the cells that are there")
    parser.add_argument("--report-images", type=int, help="at most so many, spread evenly")
    parser.add_argument("--crops", type=int, nargs=2, metavar=("CALIBRATION", "SELECTION"), help="the tool's own if not given")
    return parser


def items(given: argparse.Namespace) -> list[Compressed]:
    """Every cell that is asked for, the seeds one after the other: what is there when time runs out is whole networks."""
    cells = itertools.product(given.seeds, given.networks, given.shares, given.widths, given.ways)
    return [
        Compressed(network, way, seed, widths, share, given.evaluations)
        for seed, network, share, widths, way in cells
        if widths in WAYS[way].sets
    ]


def markdown(records: Iterable[Record]) -> str:
    """One table for each network, size and set of widths."""
    sections: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        key = record.network, record.share, record.widths != "mixed", record.evaluations
        sections.setdefault(key, []).append(record)
    order = sorted(sections, key=lambda key: (list(NETWORKS).index(str(key[0])), *map(str, key[1:])))
    return "\n\n".join(_section(sections[key]) for key in order)


def _section(records: Sequence[Record]) -> str:
    first, measured = records[0], [record for record in records if record.failed is None]
    lines = [f"### {first.network}, {first.share:.1%} of the bytes, widths {', '.join(SETS[first.widths])}", ""]
    if measured:
        head, seeds = measured[0], len({record.seed for record in measured})
        lines += [
            f"Dense {dense(measured)} ({head.metric}), {head.dense_bytes:,} bytes; differences from it in {head.unit}, "
            f"median over {seeds} seeds and range; searches measure {first.evaluations} choices.",
            "",
            *table(WAYS, measured, COLUMNS),
        ]
    return "\n".join([*lines, *failures(records)])


def _shown(of: Callable[[Record], float | None], digits: int = 2, *, signed: bool = False) -> Show[Record]:
    """A column: `of` each record that has it."""

    def show(found: Sequence[Record]) -> str:
        return spread([value for record in found if (value := of(record)) is not None], digits, signed=signed)

    return show


def _searched(record: Record) -> float | None:
    return None if record.selection is None else record.selection - record.selection_dense


def _bits(record: Record) -> float:
    """Mean over the layers."""
    return sum(BITS[width] for width in record.layers.values()) / len(record.layers)


def _measuring(record: Record) -> float:
    """Seconds before there was a choice."""
    return sum(value for name, value in record.seconds.items() if name not in ("choose", "treat"))


COLUMNS: Mapping[str, Show[Record]] = MappingProxyType(
    {
        "bytes": _shown(lambda record: record.bytes / record.dense_bytes, 3),
        "report images": _shown(lambda record: record.value - record.dense, 3, signed=True),
        "selection crops, as searched": _shown(_searched, 3, signed=True),
        "units pruned": _shown(lambda record: sum(record.pruned.values()) / record.units),
        "bits": _shown(_bits, 1),
        "loss added up": _shown(lambda record: record.energy, 4),
        "measured, s": _shown(_measuring, 1),
        "chosen, s": _shown(lambda record: record.seconds["choose"], 1),
        "seeds": lambda found: str(len(found)),
    }
)


def main() -> None:
    """Measures what is missing, and prints the tables."""
    given = arguments().parse_args()
    if not given.only_tables:
        measure(given, items(given), options_of(given))
    print(markdown(read(given.out, Record.model_validate_json)))


if __name__ == "__main__":
    main()
