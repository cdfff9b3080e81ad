"""What a sweep writes beside the slim folders of its points: sweep.json, sweep.md, a picture, a copy of the point picked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from qcompress import reports
from qcompress.errors import InputError
from qcompress.files import output_error, write_bytes, write_text
from qcompress.markdown import metric_title
from qcompress.sweeping.facts import PointFacts, SweepFacts, known, to_json
from qcompress.sweeping.front import Place, on_front
from qcompress.sweeping.table import PICTURE, to_markdown

__all__ = ["NAMES", "PICKED", "aside", "copy_picked", "keep", "kept", "write"]

FACTS, TEXT, PICKED = "sweep.json", "sweep.md", "picked.slim"
NAMES = (FACTS, TEXT, PICTURE)
POINT = ".point.json"
_LARGEST_POINT = 2**16
_X = {"macs": "multiply-accumulates", "params": "parameters", "size": "bytes of the ONNX file", "latency": "time, dense is 1"}


def write(facts: SweepFacts, folder: Path, *, picture: bool) -> None:
    """sweep.json and sweep.md, each whole or not there; the picture, or none of an earlier sweep. Raises OutputError."""
    if picture:
        write_bytes(folder / PICTURE, _drawn(facts))
    else:
        _remove(folder / PICTURE)
    write_text(folder / TEXT, to_markdown(facts, picture=picture))
    write_text(folder / FACTS, to_json(facts))


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder`, on the same disk, for what is unfinished; it vanishes at the end. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def keep(point: PointFacts, place: Path) -> None:
    """Writes what is known of a point beside its files, hidden, for a sweep that comes again. Raises OutputError."""
    write_text(place / POINT, point.model_dump_json() + "\n")


def kept(place: Path) -> PointFacts | None:
    """The point whose files are in the folder, whole and as they were written; None where there is none."""
    try:
        with (place / POINT).open("rb") as file:
            point = PointFacts.model_validate_json(file.read(_LARGEST_POINT))
        if point.status != "ok" or sha256((place / "report.json").read_bytes()).hexdigest() != point.report:
            return None
        listed = reports.read(place / "report.json").files
        same = all(sha256((place / name).read_bytes()).hexdigest() == one.sha256 for name, one in listed.items())
        return point if same else None
    except (OSError, ValidationError, InputError):
        return None


def copy_picked(folder: Path, point: Path) -> Path:
    """A plain copy of the slim folder `point` as picked.slim: complete before it takes the place of an earlier one.

    Raises OutputError.
    """
    target = folder / PICKED
    try:
        with tempfile.TemporaryDirectory(prefix=".picked-", dir=folder) as aside:
            made = Path(aside) / PICKED
            shutil.copytree(point, made, ignore=shutil.ignore_patterns(".*"))
            if target.is_dir() and not target.is_symlink():
                target.rename(Path(aside) / "before")
            made.replace(target)
    except OSError as error:
        raise output_error(target, error) from error
    return target


def _drawn(facts: SweepFacts) -> bytes:
    from qcompress.plots.front import Dot, front
    from qcompress.plots.style import render

    picked, axis = (facts.pick.share if facts.pick else None), facts.against
    dots = [
        Dot(point.cost(axis), known(point.metric), f"{100 * point.share:g} %", point.on_front, point.share == picked)
        for point in facts.points
        if point.status == "ok"
    ]
    dense = None
    if facts.dense is not None:
        cost = facts.dense.cost(axis)
        best = on_front([Place(cost, 0.0), *(point.reported(axis) for point in facts.points)])[0]
        dense = Dot(cost, known(facts.dense.metric), "dense", best)
    unit = f", {facts.unit}" if facts.unit else ""
    return render(front(dots, dense, _X[axis], f"{metric_title(facts.metric, facts.unit)}{unit}, report images"))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
