"""A checkpoint or a slim folder as a module, and from there to a file of another format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from qcompress import factories, loading, plans, slim_folder
from qcompress._version import __version__
from qcompress.checkpoints import square_input
from qcompress.errors import InputError, UsageError
from qcompress.exporters import EXPORTERS, Artifact
from qcompress.settings import CheckpointOptions, ExportOptions

__all__ = ["Network", "export", "load_network"]


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


def export(
    source: Path, out: Path | None, *, to: str, options: CheckpointOptions, export: ExportOptions, size: int
) -> Artifact:
    """Writes the network in `source` in the format `to`, by default next to it.

    Raises:
        UsageError: an unknown format.
        InputError: the source cannot be used.
        ExportError: the network cannot be written faithfully as asked.
        OutputError: the file cannot be written.

    """
    if to not in EXPORTERS:
        raise UsageError(f"format {to!r} is unknown, expected one of {', '.join(EXPORTERS)}")
    network = load_network(source, options)
    target = out or source.with_name(source.name.split(".")[0]).with_suffix(f".{to}")
    metadata = {"producer": f"qcompress {__version__}", "stride": str(network.stride), **network.origin}
    example = torch.zeros(network.example_shape(size))
    return EXPORTERS[to](network.model, example, target, opset=export.opset, dynamic=export.dynamic, metadata=metadata)
