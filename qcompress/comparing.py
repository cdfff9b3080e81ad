"""`compare`: slim folders and ONNX files on the same report images, their speed in alternation, where their plans differ."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompress import latency, plans, seeds
from qcompress import verify as verification
from qcompress.data.images import ReportImages
from qcompress.errors import InputError, UsageError
from qcompress.exporters.runtime import STRIDE_KEY, open_onnx
from qcompress.files import write_text
from qcompress.framing import frame, load_images
from qcompress.gate.limits import LEAST_ROUNDS
from qcompress.html.compare import Entry, GroupRow, ImageRow, Page, WidthRow, comparison_html
from qcompress.latency import Latency
from qcompress.metrics import Metric, companions, metric
from qcompress.plans import Plan
from qcompress.progress import SILENT, Observer
from qcompress.settings import Settings
from qcompress.verify import Verification
from qcompress.widths import WIDTHS, counted

__all__ = ["Comparison", "Contestant", "compare"]

_WORST = 12
_LARGEST_STRIDE = 1024


@dataclass(frozen=True, eq=False)
class Contestant:
    """One network: what was measured of its ONNX file, its plan if it came in a slim folder, its speed against the first."""

    name: str
    found: Verification
    plan: Plan | None
    latency: Latency | None

    @property
    def units(self) -> tuple[int, int] | None:
        """Units kept, and all."""
        if self.plan is None:
            return None
        total = sum(group.size for group in self.plan.groups.values())
        return total - sum(len(group.pruned) for group in self.plan.groups.values()), total

    @property
    def widths(self) -> str:
        """How many layers have which width, "" without a plan; those that the plan does not name are float32."""
        if self.plan is None:
            return ""
        return counted(self.plan.widths.values()) or WIDTHS[0]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All of them; the first one is what the others are compared with, the first metric what images are ordered by."""

    contestants: tuple[Contestant, ...]
    metrics: tuple[Metric, ...]
    source: str

    @property
    def images(self) -> tuple[ImageRow, ...]:
        """The first metric of every image in every network, the largest loss against the first network before the others."""
        names, first = self.contestants[0].found.images, self.metrics[0]
        each = [one.found.artifact.per_image[first.name] for one in self.contestants]
        rows = [ImageRow(name, values) for name, *values in zip(names, *each, strict=True)]
        return tuple(sorted(rows, key=lambda row: self._loss(row.values), reverse=True))

    @property
    def differing(self) -> tuple[GroupRow, ...]:
        """The groups of which the plans keep different units; of groups that some plans lack, None there."""
        return tuple(row for row in self._groups() if not row.same)

    @property
    def alike(self) -> int:
        """Number of groups of which all plans keep the same units."""
        return sum(row.same for row in self._groups())

    @property
    def widths(self) -> tuple[WidthRow, ...]:
        """The layers of which the plans have different widths; None of networks without a plan, or of others than the first."""
        return tuple(row for row in self._layers() if not row.same)

    @property
    def alike_widths(self) -> int:
        """Number of layers that are not float32, with the same width in all plans."""
        return sum(row.same for row in self._layers())

    def rows(self) -> list[tuple[str, ...]]:
        """For each network: name, every metric, bytes, units, speed; as text."""
        return [
            (
                one.name,
                *(self._value(one.found.artifact.mean(each.name), each) for each in self.metrics),
                f"{one.found.size_bytes:,}",
                "-" if one.units is None else f"{one.units[0]} of {one.units[1]}",
                _speed(one.latency),
            )
            for one in self.contestants
        ]

    def worst(self) -> list[tuple[str, ...]]:
        """The images that lose the most: name, the metric in every network, the largest loss; as text."""
        first = self.metrics[0]
        return [
            (row.name, *(self._value(value, first) for value in row.values), f"{self._loss(row.values):.3f}")
            for row in self.images[:_WORST]
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are none, or infinite, are null."""
        first = self.metrics[0]
        return {
            "metric": first.name,
            "unit": first.unit,
            "source": self.source,
            "networks": [
                {
                    "name": one.name,
                    "file": str(one.found.path),
                    "sha256": one.found.sha256,
                    "bytes": one.found.size_bytes,
                    "metrics": {each.name: _finite(one.found.artifact.mean(each.name)) for each in self.metrics},
                    "units": None if one.units is None else {"kept": one.units[0], "total": one.units[1]},
                    "widths": None if one.plan is None else dict(one.plan.widths),
                    "latency": asdict(one.latency) if one.latency else None,
                    "notes": list(one.found.notes),
                }
                for one in self.contestants
            ],
            "images": [{"name": row.name, "values": list(map(_finite, row.values))} for row in self.images],
            "groups": {
                "same": self.alike,
                "different": [{"name": row.name, "total": row.total, "kept": list(row.kept)} for row in self.differing],
            },
            "widths": {
                "same": self.alike_widths,
                "different": [{"layer": row.layer, "widths": list(row.widths)} for row in self.widths],
            },
        }

    def write(self, path: Path) -> None:
        """The comparison as one page. Raises OutputError."""
        write_text(path, comparison_html(self._page()))

    def _page(self) -> Page:
        first = self.metrics[0]
        entries = tuple(
            Entry(
                name=one.name,
                metrics=tuple(self._value(one.found.artifact.mean(each.name), each) for each in self.metrics),
                size_bytes=one.found.size_bytes,
                units=one.units,
                widths=one.widths,
                speedup=None if one.latency is None else (one.latency.speedup, *one.latency.ci95),
                verdict=_speed(one.latency),
                sha256=one.found.sha256,
                notes=one.found.notes,
            )
            for one in self.contestants
        )
        titles = tuple((each.name, each.unit) for each in self.metrics)
        return Page(
            entries=entries,
            metrics=titles,
            higher_is_better=first.higher_is_better,
            images=self.images,
            differing=self.differing,
            alike=self.alike,
            source=self.source,
            widths=self.widths,
            alike_widths=self.alike_widths,
        )

    def _loss(self, values: Sequence[float]) -> float:
        """The largest loss against the first network; minus infinity where nothing can be said."""
        losses = [self.metrics[0].drop(values[0], value) for value in values[1:]]
        return max((loss for loss in losses if not math.isnan(loss)), default=-math.inf)

    def _groups(self) -> list[GroupRow]:
        known = [one.plan for one in self.contestants]
        if sum(plan is not None for plan in known) < 2:
            return []
        names = dict.fromkeys(name for plan in known if plan is not None for name in plan.groups)
        rows = []
        for name in names:
            groups = [None if plan is None else plan.groups.get(name) for plan in known]
            present = {(group.size, group.pruned) for group in groups if group is not None}
            absent = any(plan is not None and name not in plan.groups for plan in known)
            kept = tuple(None if group is None else group.size - len(group.pruned) for group in groups)
            total = max(size for size, _ in present)
            rows.append(GroupRow(name, total, kept, same=len(present) == 1 and not absent))
        return rows

    def _layers(self) -> list[WidthRow]:
        """Every layer that some plan has at another width than float32. Names say nothing across different networks."""
        known = [one.plan for one in self.contestants]
        of = next((_network(plan) for plan in known if plan is not None and plan.widths), None)
        ours = [plan if plan is not None and _network(plan) == of else None for plan in known]
        if sum(plan is not None for plan in ours) < 2:
            return []
        names = dict.fromkeys(name for plan in ours if plan is not None for name in plan.widths)
        rows = []
        for name in names:
            widths = tuple(None if plan is None else plan.widths.get(name, WIDTHS[0]) for plan in ours)
            rows.append(WidthRow(name, widths, same=len({width for width in widths if width is not None}) == 1))
        return rows

    @staticmethod
    def _value(value: float, measured: Metric) -> str:
        unit = f" {measured.unit}" if measured.unit else ""
        return f"{value:.{2 if measured.unit in ('dB', '%') else 4}f}{unit}"


def compare(given: Sequence[Path], settings: Settings, *, observer: Observer = SILENT) -> Comparison:
    """Measures the networks in `given`, slim folders or ONNX files, on the report images of the settings' data and seed.

    The latency of each is measured in alternation with that of the first.

    Raises:
        UsageError: fewer than two are given.
        InputError: one cannot be used, or does not take the images of the first.

    """
    if len(given) < 2:
        raise UsageError(f"{len(given)} network given, expected two or more to compare", "qcompress compare A.slim B.slim")
    files = [_file(path) for path in given]
    opened = open_onnx(files[0])
    channels = opened.input_shape[1:2]
    if not channels or channels[0] is None:
        raise InputError(f"{files[0]}: its input has no fixed number of channels, expected (N, C, H, W)")
    stride = _stride(files)
    with observer.stage("images"):
        framed = frame(verification.runner(opened), channels[0], stride, settings.data, settings.verify.size)
        measured = companions(metric(settings.metric, framed.task, framed.form.scale), framed.task)
        images = load_images(framed, settings.data, channels[0], stride, settings.seed)
    observer.say(f"images: {images.source}")
    shape = tuple(size or wanted for size, wanted in zip(opened.input_shape, framed.example_shape, strict=True))
    image = seeds.stream(settings.seed, "latency input").random(shape, dtype="float32")
    found = _measured(files, images.report, measured, observer)
    timed = _timed(files, image, settings, observer)
    plans_of = [plans.read(path / "plan.json") if path.is_dir() else None for path in given]
    names = _names(given)
    contestants = tuple(Contestant(*parts) for parts in zip(names, found, plans_of, timed, strict=True))
    return Comparison(contestants, measured, images.source)


def _network(plan: Plan) -> tuple[object, ...]:
    """What tells networks apart, whatever their weights are: how they are built, and their groups."""
    return plan.checkpoint.architecture, plan.checkpoint.arguments, {name: group.size for name, group in plan.groups.items()}


def _file(path: Path) -> Path:
    """The ONNX file that is meant."""
    if path.is_dir():
        if not (path / "model.onnx").is_file():
            raise InputError(f"{path}: a folder without a model.onnx", "give a folder that `qcompress prune` wrote, or a file")
        return path / "model.onnx"
    return path


def _stride(files: Sequence[Path]) -> int:
    """What sides must be multiples of for every file that says so: then all see the same pixels."""
    said = (open_onnx(path).metadata.get(STRIDE_KEY, "") for path in files)
    return math.lcm(*(int(text) for text in said if text.isdecimal() and 0 < int(text) <= _LARGEST_STRIDE))


def _names(given: Sequence[Path]) -> list[str]:
    """What to call them: the last part of the path, or all of it where that does not tell them apart."""
    often = Counter(path.name for path in given)
    names = [path.name if path.name and often[path.name] == 1 else str(path) for path in given]
    again = Counter(names)
    return [name if again[name] == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def _measured(files: Sequence[Path], report: ReportImages, metrics: Sequence[Metric], observer: Observer) -> list[Verification]:
    found = []
    with observer.stage("metric", float(len(files))) as advance:
        for path in files:
            found.append(verification.verify_onnx(path, report, metrics=metrics))
            advance(float(len(found)))
    return found


def _timed(files: Sequence[Path], image: NDArray[np.float32], settings: Settings, observer: Observer) -> list[Latency | None]:
    """Each against the first, in rounds that alternate; a file that is the first one is not measured."""
    found: list[Latency | None] = [None]
    options = settings.verify
    first = _sha256(files[0])
    with observer.stage("latency", float(len(files) - 1)) as advance:
        for path in files[1:]:
            same = _sha256(path) == first
            timed = None
            if not same:
                timed = latency.compare(
                    files[0], path, image, seed=settings.seed, threads=options.threads, max_seconds=options.max_seconds
                )
            found.append(timed)
            advance(float(len(found) - 1))
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _speed(found: Latency | None) -> str:
    if found is None:
        return "-"
    low, high = found.ci95
    if found.runs < LEAST_ROUNDS:
        return f"{found.speedup:.2f} in {found.runs} rounds, too few for an interval"
    return f"{found.speedup:.2f} ({low:.2f} to {high:.2f}), {found.verdict}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
