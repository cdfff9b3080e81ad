"""`verify`: a file on report images in its own runtime, alone or beside a reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from qcompress import verify as verification
from qcompress.assembly import gated
from qcompress.conversion import Network, load_network
from qcompress.data.tasks import Task
from qcompress.drops import check_unit
from qcompress.errors import InputError, UsageError
from qcompress.exporters import RUNTIMES, Runner, runtime_of
from qcompress.framing import frame, load_images
from qcompress.gate.limits import Gate
from qcompress.markdown import metric_title
from qcompress.metrics import Metric, companions, metric
from qcompress.progress import SILENT, Observer
from qcompress.racing import DenseFile, Race, run_race
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
    runtime: str
    race: Race
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
        rows.append(("file, bytes", "-", f"{self.found.size_bytes:,}", "-"))
        if self.found.parity:
            rows.append(("largest difference", "-", f"{self.found.parity.max_abs_diff:.2g}", "-"))
        for name, timed in ((f"latency in {self.runtime}", self.race.same), ("against ONNX in onnxruntime", self.race.onnx)):
            if timed is not None:
                low, high = timed.ci95
                change = f"{timed.speedup:.2f}x ({low:.2f} to {high:.2f}), {timed.verdict}"
                rows.append((name, f"{timed.dense_ms:.2f} ms", f"{timed.slim_ms:.2f} ms", change))
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
            "runtime": self.runtime,
            "latency": asdict(self.race.same) if self.race.same else None,
            "latency_against_onnx": asdict(self.race.onnx) if self.race.onnx else None,
            "data": {"source": self.source, "task": self.task, "report": list(self.found.images)},
            "notes": [*self.gate.waved, *self.found.notes, *self.race.notes],
        }


def verify(artifact: Path, reference: Path | None, settings: Settings, *, observer: Observer = SILENT) -> Check:
    """Measures `artifact` on the report images of the settings' data and seed, those that `prune` with them has not seen.

    `reference` is a checkpoint, a slim folder or another file that one of RUNTIMES opens. A limit on the speedup is one on the
    speedup over the dense network in the same runtime.

    Raises:
        InputError: a file or the images cannot be used.
        BackendError: the runtime is not installed.
        UsageError: a limit is set, but there is nothing to compare with; or the runtime does not open such files.

    """
    for name, limit in (("--max-drop", settings.limits.max_drop), ("--min-speedup", settings.limits.min_speedup)):
        if limit is not None and reference is None:
            raise UsageError(
                f"{name} compares with a reference, and none is given", "--reference CHECKPOINT, FOLDER or FILE.onnx"
            )
    runtime = _runtime(artifact, settings)
    opened = RUNTIMES[runtime](artifact, settings.verify.threads)
    other = None if reference is None else _reference(reference, settings)
    channels = opened.input_shape[1] if len(opened.input_shape) == 4 else None
    channels = channels or (other.channels if isinstance(other, Network) else None)
    if channels is None:
        raise InputError(
            f"{artifact}: its input has no fixed number of channels, expected (N, C, H, W)", "give a --reference that has one"
        )
    stride = other.stride if isinstance(other, Network) else 1
    with observer.stage("images"):
        framed = frame(verification.runner(opened), channels, stride, settings.data, settings.verify.size)
        measured = companions(metric(settings.metric, framed.task, framed.form.scale), framed.task)
        check_unit(settings.limits.drop_unit, "--max-drop", measured[0].name, measured[0].difference_unit)
        images = load_images(framed, settings.data, channels, stride, settings.seed)
    observer.say(f"images: {images.source}")
    with observer.stage("verification"):
        beside: nn.Module | Runner | None = other.model if isinstance(other, Network) else None
        beside = other.open(settings.verify.threads) if isinstance(other, DenseFile) else beside
        found = verification.verify_opened(opened, artifact, images.report, reference=beside, metrics=measured)
    race = Race()
    if other is not None:
        with observer.stage("latency"):
            fixed = opened.input_shape
            shape = tuple(size or wanted for size, wanted in zip(fixed, framed.example_shape, strict=True))
            race = run_race(artifact, runtime, other, shape, settings)
    first = measured[0]
    drop = first.drop(found.dense.mean(first.name), found.artifact.mean(first.name)) if found.dense else None
    gate = gated(settings.limits, first.difference_unit, drop, race.same, found.size_bytes)
    return Check(found, measured, framed.task, images.source, runtime, race, gate)


def _runtime(artifact: Path, settings: Settings) -> str:
    """What opens the file: as the user says, or as its ending does."""
    name = settings.verify.runtime or runtime_of(artifact) or "onnxruntime"
    if name not in RUNTIMES:
        raise UsageError(f"runtime {name!r} is unknown, expected one of {', '.join(RUNTIMES)}")
    endings = RUNTIMES[name].suffixes
    if runtime_of(artifact) is not None and not artifact.name.lower().endswith(endings):
        raise UsageError(f"{artifact.name}: {name} opens files that end in {', '.join(endings)}")
    if RUNTIMES[name].runs_code and not settings.checkpoint.trust_pickle:
        raise UsageError(
            f"{artifact.name}: opening it in {name} can run code from the file", "--trust-pickle, if you made it yourself"
        )
    return name


def _reference(path: Path, settings: Settings) -> Network | DenseFile:
    """A file that a runtime opens without running code from it, or a network."""
    runtime = runtime_of(path) if path.is_file() else None
    if runtime is not None and not RUNTIMES[runtime].runs_code:
        return DenseFile(path, runtime)
    return load_network(path, settings.checkpoint)
