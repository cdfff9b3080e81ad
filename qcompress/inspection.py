"""What a checkpoint is and what could be pruned of it, without pruning anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qcompress import loading, tracing
from qcompress.groups import Groups, KeptWhole
from qcompress.settings import CheckpointOptions

__all__ = ["GroupLine", "Inspection", "inspect"]


@dataclass(frozen=True)
class GroupLine:
    """One coupled group: its units, its layers, what the first to go frees, and Torch-Pruning's opinion if asked."""

    name: str
    units: int
    layers: tuple[str, ...]
    params_per_unit: int
    macs_per_unit: int
    opinion: str | None = None


@dataclass(frozen=True)
class Inspection:
    """The answer of `inspect`: parameters and MACs are of the dense network, MACs per image of `example_shape`."""

    file: str
    sha256: str
    architecture: str
    arguments: dict[str, Any]
    example_shape: tuple[int, ...]
    params: int
    macs: int
    units: int
    groups: tuple[GroupLine, ...]
    kept_whole: tuple[KeptWhole, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """One row per group: name, units, layers, parameters and MACs that one unit frees, and the opinion if there is one."""
        return [
            (
                *(g.name, str(g.units), str(len(g.layers)), f"{g.params_per_unit:,}", f"{g.macs_per_unit:,}"),
                *([] if g.opinion is None else [g.opinion]),
            )
            for g in self.groups
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "checkpoint": {
                "file": self.file,
                "sha256": self.sha256,
                "architecture": self.architecture,
                "arguments": self.arguments,
            },
            "example_shape": list(self.example_shape),
            "cost": {"params": self.params, "macs": self.macs},
            "units": self.units,
            "groups": [
                {
                    "name": g.name,
                    "units": g.units,
                    "layers": list(g.layers),
                    "params_per_unit": g.params_per_unit,
                    "macs_per_unit": g.macs_per_unit,
                }
                | ({} if g.opinion is None else {"torch_pruning": g.opinion})
                for g in self.groups
            ],
            "kept_whole": [{"layer": k.layer, "reason": k.reason} for k in self.kept_whole],
        }


def inspect(
    path: Path, options: CheckpointOptions, *, size: int, ignore: tuple[str, ...] = (), compare: bool = False
) -> Inspection:
    """Load the checkpoint and trace it at a size x size input (rounded up to the network's stride).

    With `compare`, every group has Torch-Pruning's opinion beside it: see `second_opinion`.
    """
    checkpoint = loading.load(path, arch=options.arch, arch_args=options.arch_args, trust_pickle=options.trust_pickle)
    example = torch.zeros(checkpoint.example_shape(size))
    groups = tracing.trace(checkpoint.model, example, ignore=ignore)
    opinions = _opinions(checkpoint.model, example, groups) if compare else {}
    lines = []
    for group in groups.groups:
        one = {group.name: 1}
        layers = tuple(dict.fromkeys(member.layer for member in group.members))
        lines.append(
            GroupLine(
                group.name,
                group.size,
                layers,
                groups.params() - groups.params(one),
                groups.macs() - groups.macs(one),
                opinions.get(group.name),
            )
        )
    return Inspection(
        checkpoint.path.name,
        checkpoint.sha256,
        checkpoint.architecture,
        dict(checkpoint.arguments),
        groups.example_shape,
        groups.params(),
        groups.macs(),
        len(groups.space),
        tuple(lines),
        groups.kept_whole,
    )


def _opinions(model: nn.Module, example: Tensor, groups: Groups) -> dict[str, str]:
    from qcompress.second_opinion import second_opinion  # a slow import, and a rare wish

    found = second_opinion(model, example, groups)
    return {o.group: f"{o.verdict}: {o.note}" if o.note else o.verdict for o in found}
