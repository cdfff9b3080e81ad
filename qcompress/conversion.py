"""A checkpoint or a slim folder as a module, and from there to a file of another format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qcompress import factories, loading, plans, slim_folder
from qcompress._version import __version__
from qcompress.checkpoints import square_input
from qcompress.errors import InputError, QCompressError, UsageError
from qcompress.exporters import EXPORTERS, Artifact, format_of
from qcompress.exporters.padding import padded
from qcompress.exporters.through_onnx import shared_onnx
from qcompress.progress import SILENT, Observer
from qcompress.settings import CheckpointOptions, ExportOptions

__all__ = ["Network", "Outcome", "export", "export_all", "load_network"]


@dataclass(frozen=True, eq=False)
class Network:
    """A module in eval mode with what is known of its input, and where it comes from (for the metadata of what is written)."""

    model: nn.Module
    channels: int
    stride: int
    origin: dict[str, str]

    def example_shape(self, size: int) -> tuple[int, int, int, int]:
        """Shape of one square input of `size` pixels a side, rounded up to a multiple of the stride."""
        return square_input(size, self.channels, self.stride)


def load_network(source: Path, options: CheckpointOptions) -> Network:
    """The network in a slim folder or in a checkpoint.

    Raises:
        InputError: the folder or the checkpoint cannot be used.

    """
    if source.is_dir():
        if not (source / "plan.json").is_file():
            raise InputError(f"{source}: a folder without a plan.json", "give a checkpoint, or a folder that `prune` wrote")
        plan = plans.read(source / "plan.json")
        model = slim_folder.load(source, arch=options.arch)
        channels, stride = factories.probe_input(model)
        factories.check_output(model, channels, stride, str(source))
        origin = {"architecture": plan.checkpoint.architecture, "checkpoint_sha256": plan.checkpoint.sha256}
        return Network(model, channels, stride, origin | {"plan_sha256": plan.sha256})
    found = loading.load(source, arch=options.arch, arch_args=options.arch_args, trust_pickle=options.trust_pickle)
    origin = {"architecture": found.architecture, "checkpoint_sha256": found.sha256}
    return Network(found.model, found.channels, found.stride, origin)


@dataclass(frozen=True)
class Outcome:
    """What became of one format: a file, or the error that stands in its way."""

    format: str
    artifact: Artifact | None
    error: QCompressError | None = None

    @property
    def state(self) -> Literal["verified", "unverified", "failed"]:
        """The three states of a format."""
        return self.artifact.state if self.artifact is not None else "failed"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        if self.artifact is None:
            assert self.error is not None
            return {"format": self.format, "state": self.state, "reason": self.error.message, "hint": self.error.hint}
        artifact = self.artifact
        return {
            "format": self.format,
            "state": self.state,
            "path": str(artifact.path),
            "files": [str(path) for path in artifact.files or (artifact.path,)],
            "bytes": artifact.size_bytes,
            "sha256": artifact.sha256,
            "opset": artifact.opset,
            "dynamic": artifact.dynamic,
            "parity": asdict(artifact.parity) | {"passed": artifact.parity.passed} if artifact.parity else None,
            "notes": list(artifact.notes),
        }


def export(
    source: Path, out: Path | None, *, to: str, options: CheckpointOptions, export: ExportOptions, size: int
) -> Artifact:
    """Writes the network in `source` in the format `to`, by default next to it.

    Raises:
        UsageError: an unknown format.
        InputError: the source cannot be used.
        BackendError: the format takes a package that is missing.
        ExportError: the network cannot be written faithfully as asked.
        OutputError: the file cannot be written.

    """
    (outcome,) = export_all(source, out, to=(to,), options=options, export=export, size=size)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.artifact is not None
    return outcome.artifact


def export_all(
    source: Path,
    out: Path | None,
    *,
    to: Sequence[str],
    options: CheckpointOptions,
    export: ExportOptions,
    size: int,
    observer: Observer = SILENT,
) -> list[Outcome]:
    """Writes the network in `source` in every format of `to`, each verified in its own runtime; one that fails stops none.

    `out` is a folder, or for one format a file that ends as that format's do; by default files lie next to the source.

    Raises:
        UsageError: an unknown format, or a file for several.
        InputError: the source cannot be used.

    """
    unknown = next((name for name in to if name not in EXPORTERS), None)
    if unknown is not None:
        raise UsageError(f"format {unknown!r} is unknown, expected one of {', '.join(EXPORTERS)}")
    targets = {name: _target(source, out, name, alone=len(to) == 1) for name in to}
    network = load_network(source, options)
    example = torch.zeros(network.example_shape(size))
    model = padded(network.model, example, network.stride) if export.pad else network.model
    metadata = {"producer": f"qcompress {__version__}", "stride": "1" if export.pad else str(network.stride), **network.origin}
    outcomes = []
    with shared_onnx():
        for name, target in targets.items():
            with observer.stage(f"export {name}"):
                outcomes.append(_one(name, model, example, target, export, metadata))
    return outcomes


def _one(
    name: str, model: nn.Module, example: Tensor, target: Path, export: ExportOptions, metadata: Mapping[str, str]
) -> Outcome:
    try:
        artifact = EXPORTERS[name](
            model,
            example,
            target,
            opset=export.opset,
            dynamic=export.dynamic,
            metadata=metadata,
            weights=export.weights,
        )
    except QCompressError as error:
        return Outcome(name, None, error)
    return Outcome(name, artifact)


def _target(source: Path, out: Path | None, name: str, *, alone: bool) -> Path:
    """Where the file of the format `name` goes."""
    suffix = EXPORTERS[name].suffix
    file = source.name.split(".")[0] + suffix
    if out is None:
        return source.with_name(file)
    ending = format_of(out)
    if alone and (ending == name or not (out.is_dir() or ending)):
        return out
    if ending is not None and not out.is_dir():
        raise UsageError(
            f"{out}: ends as a file of the format {ending}, expected a folder for {name}", "give a folder to --out"
        )
    return out / file
