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
from qcompress.assembly import missed_limits
from qcompress.conversion import Network, load_network
from qcompress.data import noise, splits
from qcompress.errors import InputError, UsageError
from qcompress.exporters import EXPORTERS
from qcompress.exporters.runtime import open_onnx
from qcompress.latency import Latency
from qcompress.metrics import Metric, metric
from qcompress.progress import SILENT, Observer
from qcompress.settings import Settings
from qcompress.verify import Verification

__all__ = ["Check", "verify"]


@dataclass(frozen=True)
class Check:
    """What `verify` found; where there is a reference, its quality is `found.dense` and parity and latency are against it."""

    found: Verification
    metric: Metric
    source: str
    latency: Latency | None
    reasons: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 4 where a limit is missed."""
        return 4 if self.reasons else 0

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(quantity, reference, artifact, change), as text."""
        rows = []
        for name, unit, digits in (("psnr", " dB", 2), ("ssim", "", 4)):
            ours = self.found.artifact.mean(name)  # type: ignore[arg-type]
            theirs = self.found.dense.mean(name) if self.found.dense else None  # type: ignore[arg-type]
            reference = "-" if theirs is None else f"{theirs:.{digits}f}{unit}"
            change = "-" if theirs is None else f"{ours - theirs:+.{digits}f}{unit}"
            rows.append((name.upper(), reference, f"{ours:.{digits}f}{unit}", change))
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
        name: Any = self.metric.name
        reference = self.found.dense
        return {
            "status": "threshold-missed" if self.reasons else "ok",
            "reasons": list(self.reasons),
            "file": str(self.found.path),
            "sha256": self.found.sha256,
            "bytes": self.found.size_bytes,
            "metric": {
                "name": name,
                "unit": self.metric.unit,
                "images": len(self.found.images),
                "noisy": self.found.noisy.mean(name),
                "reference": reference.mean(name) if reference else None,
                "artifact": self.found.artifact.mean(name),
            },
            "parity": asdict(self.found.parity) if self.found.parity else None,
            "latency": asdict(self.latency) if self.latency else None,
            "data": {"source": self.source, "report": list(self.found.images)},
            "notes": list(self.found.notes),
        }


def verify(artifact: Path, reference: Path | None, settings: Settings, *, observer: Observer = SILENT) -> Check:
    """Measures `artifact` on the report images of the settings' data and seed, those that `prune` with them has not seen.

    `reference` is a checkpoint, a slim folder or another ONNX file.

    Raises:
        InputError: a file or the images cannot be used.
        UsageError: a limit is set, but there is nothing to compare with.

    """
    measured = metric(settings.metric)
    for name, limit in (("--max-drop", settings.limits.max_drop), ("--min-speedup", settings.limits.min_speedup)):
        if limit is not None and reference is None:
            raise UsageError(
                f"{name} compares with a reference, and none is given", "--reference CHECKPOINT, FOLDER or FILE.onnx"
            )
    channels = open_onnx(artifact).input_shape[1:2]
    if not channels or channels[0] is None:
        raise InputError(f"{artifact}: its input has no fixed number of channels, expected (N, C, H, W)")
    other: Path | Network | None = reference
    if reference is not None and not _is_onnx(reference):
        other = load_network(reference, settings.checkpoint)
    data = settings.data
    with observer.stage("images"):
        images = splits.load(
            data.source,
            noise=noise.parse(data.noise) if data.noise else None,
            channels=channels[0],
            stride=other.stride if isinstance(other, Network) else 1,
            seed=settings.seed,
            max_images=data.max_images,
        )
    observer.say(f"images: {images.source}")
    with observer.stage("verification"):
        network = other.model if isinstance(other, Network) else other
        found = verification.verify_onnx(artifact, images.report, reference=network)
    timed = None
    if other is not None:
        with observer.stage("latency"):
            timed = _time(artifact, other, settings, channels[0])
    drop = found.dense.mean(measured.name) - found.artifact.mean(measured.name) if found.dense else 0.0  # type: ignore[arg-type]
    return Check(found, measured, images.source, timed, missed_limits(settings.limits, measured.unit, drop, timed))


def _time(artifact: Path, other: Path | Network, settings: Settings, channels: int) -> Latency:
    """The reference against the artifact, at the artifact's own size where that is fixed."""
    with ExitStack() as stack:
        if isinstance(other, Network):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            example = torch.zeros(other.example_shape(settings.verify.size))
            path = EXPORTERS["onnx"](other.model, example, folder / "reference.onnx", opset=18, dynamic=True, metadata={}).path
        else:
            path = other
        fixed = open_onnx(artifact).input_shape
        side = settings.verify.size
        shape = (fixed[0] or 1, channels, fixed[2] or side, fixed[3] or side)
        image = seeds.stream(settings.seed, "latency input").random(shape, dtype="float32")
        options = settings.verify
        return latency.compare(
            path, artifact, image, seed=settings.seed, threads=options.threads, max_seconds=options.max_seconds
        )


def _is_onnx(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".onnx"
