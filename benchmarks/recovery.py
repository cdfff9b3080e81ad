"""What a pruned network is worth once it is trained: our pruning against Torch-Pruning's own, at equal MACs, trained alike.

Networks x ways of pruning x seeds. All are trained by the tool's fine-tuning: the same steps, images, schedule, and the same
trials of a learning rate and of the teacher's share; a sparse training before the pruning comes on top. Reported on images that
no stage has seen. `--shared-data` is a folder with the checkpoints, images and code that `selection_networks` names (the
reference needs none of it). Every cell is a file under --out: a run that was stopped goes on, a failed cell is kept as failed
until --retry. Then prints the tables.

    python benchmarks/recovery.py --shared-data DIR --out DIR --device cuda --jobs 14 --pieces 3 --minutes 7
    python benchmarks/recovery.py --out DIR --networks reference --seeds 0 --steps 20 --ways qcompress "Torch-Pruning Taylor"
    python benchmarks/recovery.py --out DIR --only-tables
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from recovery_cells import WAYS, Effort, Record, Trained
from selection_jobs import measure, options_of
from selection_networks import NETWORKS
from way_tables import Show, dense, failures, read, spread, table

DEFAULT = ("halfunet64-sidd", "dncnn25-gray", "reference")


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared-data", type=Path, default=Path(), help="folder of checkpoints, images and code")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(DEFAULT))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of the MACs that goes")
    parser.add_argument("--steps", type=int, default=2000, help="of the optimiser, trials included")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, help="learning rate (default: by trials)")
    parser.add_argument("--teaching", type=float, help="share of the dense network's outputs (default: by trials)")
    parser.add_argument("--optimizer", choices=["muon", "adam"], default="muon")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--pieces", type=int, default=1, help="deal the cells of one network and seed to so many processes")
    parser.add_argument("--minutes", type=float, help="begin no cell after that")
    parser.add_argument("--retry", action="store_true", help="measure failed cells again")
    parser.add_argument("--only-tables", action="store_true", help="of the cells that are there")
    parser.add_argument("--report-images", type=int, help="at most so many, spread evenly")
    parser.add_argument("--crops", type=int, nargs=2, metavar=("CALIBRATION", "SELECTION"), help="the tool's own if not given")
    return parser


def items(given: argparse.Namespace) -> list[Trained]:
    """Every cell that is asked for, the seeds one after the other: what is there when time runs out is whole networks."""
    effort = Effort(given.sparsity, given.steps, given.batch, given.rate, given.teaching, given.optimizer)
    return [
        Trained(network, way, seed, effort) for seed, network, way in itertools.product(given.seeds, given.networks, given.ways)
    ]


def markdown(records: Iterable[Record]) -> str:
    """One table for each network, share, training and number of images; failures below the first of theirs."""
    sections: dict[tuple[str, str, str], list[Record]] = {}
    failed: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        training = record.network, repr(record.effort)
        if record.failed is None:
            sections.setdefault((*training, repr(record.images)), []).append(record)
        else:
            failed.setdefault(training, []).append(record)
    found = [[*_section(measured), *failures(failed.pop(key[:2], ()))] for key, measured in sections.items()]
    return "\n\n".join("\n".join(lines) for lines in (*found, *map(failures, failed.values())))


def _section(measured: Sequence[Record]) -> list[str]:
    first = measured[0]
    effort, images = first.effort, "".join(f", {count} {name}" for name, count in first.images.items())
    length = f"{effort['steps']:g} steps of {effort['batch']:g} by {str(effort['optimiser']).title()}"
    title = f"### {first.network}, {effort['sparsity']:.0%} of the MACs, {length}, dense {dense(measured)}{images}"
    return [title, "", *table(WAYS, measured, COLUMNS)]


def _before(found: Sequence[Record]) -> str:
    """Nothing where the pruning itself trains."""
    return spread([record.started - record.dense for record in found if record.started is not None])


def _different(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)))


COLUMNS: Mapping[str, Show[Record]] = MappingProxyType(
    {
        "MACs left": lambda found: spread([record.macs for record in found], 3, signed=False),
        "sparse training, steps": lambda found: _different(record.sparse_steps for record in found if record.sparse_steps),
        "before training": _before,
        "trained": lambda found: spread([record.trained - record.dense for record in found]),
        "learning rates": lambda found: _different(record.training["rate"] for record in found),
        "teacher's shares": lambda found: _different(record.training["teaching"] for record in found),
        "seeds": lambda found: str(len(found)),
    }
)
"""The metric as differences from the dense network."""


def main() -> None:
    """Measures what is missing, and prints the tables."""
    given = arguments().parse_args()
    if not given.only_tables:
        measure(given, items(given), options_of(given))
    print(markdown(read(given.out, Record.model_validate_json)))


if __name__ == "__main__":
    main()
