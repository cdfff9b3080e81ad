"""What files of `qcompress compress` are worth in ONNX Runtime: bytes, metric, speed, against the dense float32 file.

Networks x ways x seeds; the ways are settings of `compress`, and onnxruntime's own static quantisation of the whole network.
The metric is on images that no stage has seen; speed is measured in alternation with the dense file, one thread, its CPU time
(qcompress.latency). `--shared-data` is a folder with the checkpoints, images and code that `selection_networks` names (the
reference needs none of it). Every cell is a file under --out: a run that was stopped goes on. Then prints the tables.

    python benchmarks/compression_files.py --shared-data DIR --out DIR --seeds 0
    python benchmarks/compression_files.py --out DIR --networks reference --ways "0.25 8"
    python benchmarks/compression_files.py --out DIR --only-tables
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from selection_networks import NETWORKS
from way_tables import Show, dense, failures, read, spread, table

from qcompress import latency, loading, pipeline, seeds
from qcompress.compressing import compress
from qcompress.errors import QCompressError
from qcompress.exporters import EXPORTERS, ort_int8
from qcompress.files import write_text
from qcompress.pipeline import Job
from qcompress.progress import SILENT
from qcompress.quantities import parse_size
from qcompress.reports import Report
from qcompress.settings import CompressOptions, Settings, VerifyOptions
from qcompress.verify import verify_onnx
from qcompress.widths import parse_bits

ORT = "onnxruntime, whole"
WAYS = (ORT, "0.25 auto", "0.25 8", "0.2 4,8", "0.15 4,8", "0.15 auto")
"""Target size and widths, as `--target-size` and `--bits` take them."""

DEFAULT = ("halfunet64-sidd", "dncnn25-gray", "resnet20-cifar10", "reference")
_CALIBRATED_ON = 32
_SIDES = MappingProxyType({"resnet20-cifar10": 32})  # of the input that is timed; 256 pixels for all others


@dataclass(frozen=True)
class Cell:
    """What was measured: share of the dense file's bytes, dense metric and difference from it, speed and its interval.

    `units` is the share of the units that went, `widths` says how many layers have which; `failed` is why nothing was measured.
    """

    network: str
    way: str
    seed: int
    unit: str = ""
    dense: float = 0.0
    change: float = 0.0
    share: float = 0.0
    speedup: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    units: float = 0.0
    widths: str = ""
    seconds: float = 0.0
    failed: str | None = None

    def path(self, out: Path) -> Path:
        """Its file under `out`."""
        way = self.way.replace(" ", "_").replace(",", "-")
        return out / self.network / f"{way}_seed{self.seed}.json"


def measured(network: str, way: str, seed: int, folder: Path) -> Cell:
    """One cell. Raises QCompressError where there is no such file."""
    began = time.perf_counter()
    known, cell = NETWORKS[network], Cell(network, way, seed)
    checkpoint = loading.load(known.path(folder), arch=known.arch)
    images = known.images(folder, checkpoint, seed)
    settings = Settings(seed=seed, verify=VerifyOptions(size=_SIDES.get(network, 256)))
    with tempfile.TemporaryDirectory() as scratch:
        job = pipeline.prepare(checkpoint, settings, SILENT, images=images)
        example = torch.zeros(job.frame.example_shape)
        dense = EXPORTERS["onnx"](
            checkpoint.model, example, Path(scratch) / "dense.onnx", opset=settings.export.opset, dynamic=True, metadata={}
        )
        if way == ORT:
            return _by_onnxruntime(cell, job, dense.path, Path(scratch), began)
        size, bits = way.split()
        settings = replace(settings, compress=CompressOptions(target_size=parse_size(size, "--ways"), bits=parse_bits(bits)))
        report = compress(checkpoint, settings, images=images, out=Path(scratch) / "slim").report
        return _of(report, cell, dense.size_bytes, time.perf_counter() - began)


def _of(report: Report, cell: Cell, dense_bytes: int, seconds: float) -> Cell:
    """What a report of `compress` says."""
    timed, found, metric = report.latency, report.compression, report.metric
    assert timed is not None
    assert found is not None
    assert metric.dense is not None
    assert metric.artifact is not None
    widths = [layer.width for layer in found.layers]
    return replace(
        cell,
        unit=metric.unit,
        dense=metric.dense,
        change=metric.artifact - metric.dense,
        share=found.size / dense_bytes,
        speedup=timed.speedup or 0.0,
        interval=(timed.ci95[0] or 0.0, timed.ci95[1] or 0.0),
        units=report.units.pruned / report.units.total,
        widths=", ".join(f"{widths.count(name)} {name}" for name in sorted(set(widths))),
        seconds=seconds,
    )


def _by_onnxruntime(cell: Cell, job: Job, dense: Path, scratch: Path, began: float) -> Cell:
    """The whole network in int8 by onnxruntime's static quantisation, on as many crops as `compress` calibrates on."""
    crops = job.calibration().inputs.cpu().numpy()[:_CALIBRATED_ON]
    artifact = ort_int8.quantise_whole(dense, scratch / "whole.onnx", crops)
    checked = verify_onnx(artifact.path, job.splits.report, reference=dense, metrics=job.metrics)
    assert checked.dense is not None
    name = job.metric.name
    image = seeds.stream(cell.seed, "latency input").random(job.frame.example_shape, dtype="float32")
    timed = latency.compare(dense, artifact.path, image, seed=cell.seed)
    whole, float32 = checked.artifact.overall[name], checked.dense.overall[name]
    return replace(
        cell,
        unit=job.metric.unit,
        dense=float32,
        change=whole - float32,
        share=artifact.size_bytes / dense.stat().st_size,
        speedup=timed.speedup,
        interval=timed.ci95,
        widths="all int8",
        seconds=time.perf_counter() - began,
    )


def markdown(cells: Sequence[Cell]) -> str:
    """One table for each network: medians over the seeds, and the range."""
    sections = []
    for network in NETWORKS:
        found = [cell for cell in cells if cell.network == network]
        measured = [cell for cell in found if cell.failed is None]
        if measured:
            title = f"### {network}, dense {dense(measured)} {measured[0].unit}"
            sections.append("\n".join([title, "", *table(WAYS, measured, COLUMNS), *failures(found)]))
    return "\n\n".join(sections)


def _interval(found: Sequence[Cell]) -> str:
    """From the least lower to the largest upper end."""
    return f"{min(cell.interval[0] for cell in found):.2f} to {max(cell.interval[1] for cell in found):.2f}"


COLUMNS: Mapping[str, Show[Cell]] = MappingProxyType(
    {
        "bytes": lambda found: spread([cell.share for cell in found], 3, signed=False),
        "units gone": lambda found: spread([cell.units for cell in found], signed=False),
        "layers": lambda found: "; ".join(sorted({cell.widths for cell in found})),
        "change": lambda found: spread([cell.change for cell in found]),
        "speed": lambda found: spread([cell.speedup for cell in found], signed=False),
        "95 %": _interval,
        "seconds": lambda found: f"{max(cell.seconds for cell in found):.0f}",
    }
)


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared-data", type=Path, default=Path(), help="folder of checkpoints, images and code")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(DEFAULT))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only-tables", action="store_true", help="of the cells that are there")
    return parser


def main() -> None:
    """Measures what is missing, and prints the tables."""
    given = arguments().parse_args()
    folder = given.shared_data.resolve()
    sys.path.append(str(folder))  # where the networks that are not recognised have their code
    torch.set_num_threads(1)
    for seed, network, way in itertools.product(given.seeds, given.networks, given.ways):
        path = Cell(network, way, seed).path(given.out)
        if given.only_tables or path.exists():
            continue
        try:
            cell = measured(network, way, seed, folder)
        except QCompressError as error:
            cell = Cell(network, way, seed, failed=error.message)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(cell)))
    print(markdown(read(given.out, lambda text: Cell(**json.loads(text)))))


if __name__ == "__main__":
    main()
