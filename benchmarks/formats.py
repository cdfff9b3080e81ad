"""Every format of EXPORTERS on networks, dense and slim: whether it can be written, parity, size, and how fast it runs.

    python benchmarks/formats.py half-unet=reference,reference.slim dncnn=dncnn.pt,dncnn.slim [--size 128] [--formats onnx,mnn]

Each network is NAME=CHECKPOINT,SLIM_FOLDER[,PACKAGE.MODULE:FACTORY], slim as `qcompress prune` wrote it. "dense / slim" is
measured in the format's own runtime, "against ONNX" is the slim ONNX file in onnxruntime over the slim file in its runtime;
both in alternation, one thread, thread CPU time (qcompress.latency), runtimes by their own default settings. Prints a table in
Markdown; failures are named below it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qcompress import latency, seeds
from qcompress.conversion import Outcome, export_all
from qcompress.errors import QCompressError
from qcompress.exporters import EXPORTERS
from qcompress.latency import Latency
from qcompress.settings import CheckpointOptions, ExportOptions

COLUMNS = ("network", "format", "state", "bytes dense", "bytes slim", "parity", "dense / slim", "against ONNX")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


@dataclass(frozen=True)
class Pair:
    """A network, dense and slim."""

    name: str
    dense: Path
    slim: Path
    arch: str | None = None


def parsed(text: str) -> Pair:
    """NAME=CHECKPOINT,SLIM_FOLDER[,PACKAGE.MODULE:FACTORY]."""
    name, _, rest = text.partition("=")
    parts = rest.split(",")
    if not name or len(parts) not in (2, 3):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=CHECKPOINT,SLIM_FOLDER")
    return Pair(name, Path(parts[0]), Path(parts[1]), *parts[2:])


def written(source: Path, arch: str | None, folder: Path, formats: list[str], size: int) -> dict[str, Outcome]:
    """The files of one network by format."""
    outcomes = export_all(source, folder, to=formats, options=CheckpointOptions(arch), export=ExportOptions(), size=size)
    return {outcome.format: outcome for outcome in outcomes}


def ratio(dense: tuple[str, Path], slim: tuple[str, Path], shape: tuple[int, ...], seconds: float) -> str:
    """Time of one over that of the other, with its interval; each is a runtime and a file."""
    image = seeds.stream(0, "formats").random(shape, dtype="float32")
    try:
        found: Latency = latency.compare(
            dense[1], slim[1], image, seed=0, max_seconds=seconds, dense_runtime=dense[0], slim_runtime=slim[0]
        )
    except QCompressError as error:
        return f"({error.message})"
    return f"{found.speedup:.2f} ({found.ci95[0]:.2f} to {found.ci95[1]:.2f})"


def row(pair: Pair, name: str, dense: Outcome, slim: Outcome, onnx: Outcome, shape: tuple[int, ...], seconds: float) -> str:
    """A line of the table."""
    if dense.artifact is None or slim.artifact is None:
        return f"| {pair.name} | {name} | failed | | | | | |"
    runtime = EXPORTERS[name].runtime
    ours, against = "", ""
    if runtime is not None and slim.state == "verified":
        ours = ratio((runtime, dense.artifact.path), (runtime, slim.artifact.path), shape, seconds)
        if onnx.artifact is not None and name != "onnx":
            against = ratio(("onnxruntime", onnx.artifact.path), (runtime, slim.artifact.path), shape, seconds)
    parity = f"{slim.artifact.parity.rel:.1e}" if slim.artifact.parity else ""
    sizes = f"{dense.artifact.size_bytes:,} | {slim.artifact.size_bytes:,}"
    return f"| {pair.name} | {name} | {slim.state} | {sizes} | {parity} | {ours} | {against} |"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", type=parsed, metavar="NAME=CHECKPOINT,SLIM_FOLDER")
    parser.add_argument("--formats", default=",".join(EXPORTERS))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one comparison at most")
    options = parser.parse_args()
    formats = list(dict.fromkeys(["onnx", *options.formats.split(",")]))
    print(HEAD, flush=True)
    failures = []
    for pair in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            dense = written(pair.dense, pair.arch, Path(folder) / "dense", formats, options.size)
            slim = written(pair.slim, pair.arch, Path(folder) / "slim", formats, options.size)
            first = slim["onnx"].artifact
            if first is None:
                raise SystemExit(f"{pair.name}: no ONNX file: {slim['onnx'].error}")
            channels, fixed = _input(first.path)
            shape = (1, channels, fixed or options.size, fixed or options.size)
            for name in formats:
                print(row(pair, name, dense[name], slim[name], slim["onnx"], shape, options.seconds), flush=True)
                errors = (dense[name].error, slim[name].error)
                failures += [f"- {pair.name}, {name}: {error.message}" for error in errors[:1] if error is not None]
                notes = slim[name].artifact.notes if slim[name].artifact else ()  # type: ignore[union-attr]
                failures += [f"- {pair.name}, {name}: {note}" for note in notes if "default settings" in note]
    print("\n" + "\n".join(failures))
    return 0


def _input(path: Path) -> tuple[int, int | None]:
    """Channels of an ONNX file's input, and its side where that is fixed."""
    from qcompress.exporters.runtime import open_onnx

    shape = open_onnx(path).input_shape
    return shape[1] or 1, shape[2]


if __name__ == "__main__":
    sys.exit(main())
