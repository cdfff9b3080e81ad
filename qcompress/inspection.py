"""What a checkpoint is and what could be pruned of it, without pruning anything."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qcompress import loading, processor, tracing
from qcompress.alignment import Alignment
from qcompress.groups import Groups, KeptWhole
from qcompress.protection import protected, protection
from qcompress.settings import CheckpointOptions, SearchOptions

__all__ = ["GroupLine", "Inspection", "inspect"]


@dataclass(frozen=True)
class GroupLine:
    """One coupled group: its units, its layers, what the first to go frees, and Torch-Pruning's opinion if asked.

    `may_keep` are the numbers of units that it may be left with, ascending.
    """

    name: str
    units: int
    layers: tuple[str, ...]
    params_per_unit: int
    macs_per_unit: int
    may_keep: tuple[int, ...]
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
        """One row per group: name, units, which it may keep, layers, parameters and MACs that one unit frees, the opinion."""
        return [
            (
                *(
                    g.name,
                    str(g.units),
                    _brief(g.may_keep),
                    str(len(g.layers)),
                    f"{g.params_per_unit:,}",
                    f"{g.macs_per_unit:,}",
                ),
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
                    "may_keep": list(g.may_keep),
                }
                | ({} if g.opinion is None else {"torch_pruning": g.opinion})
                for g in self.groups
            ],
            "kept_whole": [{"layer": k.layer, "reason": k.reason} for k in self.kept_whole],
        }


def inspect(
    path: Path, options: CheckpointOptions, *, size: int, search: SearchOptions | None = None, compare: bool = False
) -> Inspection:
    """Load the checkpoint and trace it at a size x size input (rounded up to the network's stride).

    Of `search` the alignment and what is protected count. With `compare`, every group has Torch-Pruning's opinion with it, see
    `second_opinion`.
    """
    checkpoint = loading.load(path, arch=options.arch, arch_args=options.arch_args, trust_pickle=options.trust_pickle)
    example = torch.zeros(checkpoint.example_shape(size))
    search = search or SearchOptions()
    groups = protected(tracing.trace(checkpoint.model, example, ignore=search.ignore, floor=search.floor), search)
    limits = protection(groups, search)
    align = processor.block() if search.align is None else search.align
    allowed = Alignment(groups.space, align, groups.widths, limits.multiples, limits.ceilings).allowed
    opinions = _opinions(checkpoint.model, example, groups) if compare else {}
    lines = []
    for group, counts in zip(groups.groups, allowed, strict=True):
        one = {group.name: 1}
        layers = tuple(dict.fromkeys(member.layer for member in group.members))
        lines.append(
            GroupLine(
                group.name,
                group.size,
                layers,
                groups.params() - groups.params(one),
                groups.macs() - groups.macs(one),
                tuple(sorted(group.size - k for k in counts)),
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


def _brief(counts: tuple[int, ...]) -> str:
    """Numbers of units as a person would say them.

    >>> _brief((8, 16, 24)), _brief((12, 16, 20, 22)), _brief((1, 2, 3, 5, 6))
    ('8, 16, 24', '12, 16, 20, 22', '5 of 1 to 6')
    >>> _brief(tuple(range(1, 65))), _brief(tuple(range(16, 257, 16)))
    ('1 to 64', '16 to 256 in steps of 16')
    """
    if len(counts) <= 4:
        return ", ".join(map(str, counts))
    steps = {b - a for a, b in pairwise(counts)}
    if len(steps) > 1:
        return f"{len(counts)} of {counts[0]} to {counts[-1]}"
    step = steps.pop()
    return f"{counts[0]} to {counts[-1]}" + (f" in steps of {step}" if step > 1 else "")


def _opinions(model: nn.Module, example: Tensor, groups: Groups) -> dict[str, str]:
    from qcompress.second_opinion import second_opinion  # a slow import, and a rare wish

    found = second_opinion(model, example, groups)
    return {o.group: f"{o.verdict}: {o.note}" if o.note else o.verdict for o in found}
