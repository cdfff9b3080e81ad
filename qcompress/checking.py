"""`verify`: an ONNX file on report images, alone or beside a reference."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qcompress import latency, seeds
from qcompress import verify as verification
from qcompress.assembly import gated
from qcompress.conversion import Network, load_network
from qcompress.data.tasks import Task
from qcompress.errors import InputError, UsageError
from qcompress.exporters import EXPORTERS
from qcompress.exporters.runtime import open_onnx
from qcompress.framing import frame, load_images
from qcompress.gate.limits import Gate
from qcompress.latency import Latency
from qcompress.markdown import metric_title
from qcompress.metrics import Metric, companions, metric
from qcompress.progress import SILENT, Observer
from qcompress.settings import Settings
from qcompress.verify import Verification

__all__ = ["Check", "verify"]


@dataclass(frozen=True)
class Check:
    """What `verify` found; where there is a reference, its quality is `found.dense` and parity and latency are against it."""

    found: Verification
    metrics: tuple[Metric, ...]  # the first is the one that a limit is for
    task: Task
    source: str
    latency: Latency | None
    gate: Gate

    @property
    def exit_code(self) -> int:
        """0, 4 where a limit is missed, 6 where one is undecided."""
        return self.gate.exit_code

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(quantity, reference, artifact, change), as text."""
        rows = []
        for measured in self.metrics:
            name, digits = measured.name, 2 if measured.unit in ("dB", "%") else 4
            unit, apart = (f" {text}" if text else "" for text in (measured.unit, measured.difference_unit))
            ours = self.found.artifact.mean(name)
            theirs = self.found.dense.mean(name) if self.found.dense else None
            reference = "-" if theirs is None else f"{theirs:.{digits}f}{unit}"
            change = "-" if theirs is None else f"{ours - theirs:+.{digits}f}{apart}"
            rows.append((metric_title(name, measured.unit), reference, f"{ours:.{digits}f}{unit}", change))
        rows.append(("ONNX file, bytes", "-", f"{self.found.size_bytes:,}", "-"))
        if self.found.parity:
            rows.append(("largest difference", "-", f"{self.found.parity.max_abs_diff:.2g}", "-"))
        if self.latency:
            low, high = self.latency.ci95
            change = f"{self.latency.speedup:.2f}x ({low:.2f} to {high:.2f}), {self.latency.verdict}"
            rows.append(("latency", f"{self.latency.dense_ms:.2f} ms", f"{self.latency.slim_ms:.2f} ms", change))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        name = self.metrics[0].name
        reference, noisy = self.found.dense, self.found.noisy
        baseline = "bicubic" if self.task == "super-resolution" else "noisy"
        return {
            "status": {"passed": "ok", "failed": "threshold-missed", "undecided": "undecided"}[self.gate.outcome],
            "reasons": list(self.gate.reasons),
            "file": str(self.found.path),
            "sha256": self.found.sha256,
            "bytes": self.found.size_bytes,
            "metric": {
                "name": name,
                "unit": self.metrics[0].unit,
                "images": len(self.found.images),
                baseline: noisy.mean(name) if noisy else None,
                "reference": reference.mean(name) if reference else None,
                "artifact": self.found.artifact.mean(name),
            },
            "parity": asdict(self.found.parity) if self.found.parity else None,
            "latency": asdict(self.latency) if self.latency else None,
            "data": {"source": self.source, "task": self.task, "report": list(self.found.images)},
            "notes": [*self.gate.waved, *self.found.notes],
        }


def verify(artifact: Path, reference: Path | None, settings: Settings, *, observer: Observer = SILENT) -> Check:
    """Measures `artifact` on the report images of the settings' data and seed, those that `prune` with them has not seen.

    `reference` is a checkpoint, a slim folder or another ONNX file.

    Raises:
        InputError: a file or the images cannot be used.
        UsageError: a limit is set, but there is nothing to compare with.

    """
    for name, limit in (("--max-drop", settings.limits.max_drop), ("--min-speedup", settings.limits.min_speedup)):
        if limit is not None and reference is None:
            raise UsageError(
                f"{name} compares with a reference, and none is given", "--reference CHECKPOINT, FOLDER or FILE.onnx"
            )
    opened = open_onnx(artifact)
    channels = opened.input_shape[1:2]
    if not channels or channels[0] is None:
        raise InputError(f"{artifact}: its input has no fixed number of channels, expected (N, C, H, W)")
    other: Path | Network | None = reference
    if reference is not None and not _is_onnx(reference):
        other = load_network(reference, settings.checkpoint)
    stride = other.stride if isinstance(other, Network) else 1
    with observer.stage("images"):
        framed = frame(verification.runner(opened), channels[0], stride, settings.data, settings.verify.size)
        measured = companions(metric(settings.metric, framed.task, framed.form.scale), framed.task)
        images = load_images(framed, settings.data, channels[0], stride, settings.seed)
    observer.say(f"images: {images.source}")
    with observer.stage("verification"):
        network = other.model if isinstance(other, Network) else other
        found = verification.verify_onnx(artifact, images.report, reference=network, metrics=measured)
    timed = None
    if other is not None:
        with observer.stage("latency"):
            timed = _time(artifact, other, settings, framed.example_shape)
    first = measured[0]
    drop = first.drop(found.dense.mean(first.name), found.artifact.mean(first.name)) if found.dense else None
    gate = gated(settings.limits, first.difference_unit, drop, timed, found.size_bytes)
    return Check(found, measured, framed.task, images.source, timed, gate)


def _time(artifact: Path, other: Path | Network, settings: Settings, example_shape: tuple[int, ...]) -> Latency:
    """The reference against the artifact, at the artifact's own size where that is fixed."""
    with ExitStack() as stack:
        if isinstance(other, Network):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            example = torch.zeros(example_shape)
            path = EXPORTERS["onnx"](other.model, example, folder / "reference.onnx", opset=18, dynamic=True, metadata={}).path
        else:
            path = other
        fixed = open_onnx(artifact).input_shape
        shape = tuple(size or wanted for size, wanted in zip(fixed, example_shape, strict=True))
        image = seeds.stream(settings.seed, "latency input").random(shape, dtype="float32")
        options = settings.verify
        return latency.compare(
            path, artifact, image, seed=settings.seed, threads=options.threads, max_seconds=options.max_seconds
        )


def _is_onnx(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".onnx"
