"""The guard of tracing: a group is believed once a third of it was removed and the network computed what it should."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress import seeds
from qcompress.errors import SurgeryError
from qcompress.groups import Groups
from qcompress.selection import Selection, UnitSpace
from qcompress.surgery import SlicedShell, check
from qcompress.tracing_layers import kind_of

__all__ = ["TOLERANCE", "failures", "randomised"]

_THIRDS = 3
TOLERANCE = 1e-4  # relative; float32 networks stay some orders below, a leaking bias is above 1e-2


def _fill(module: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    """Random values for one layer; those of kinds that are not cut move a little only, away from zeros that hide mistakes."""
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        own = {**module._parameters, **module._buffers}
        for name, mean, spread in (("weight", 1.0, 0.2), ("bias", 0.0, 0.3), ("running_mean", 0.0, 0.3)):
            tensor = own.get(name)
            if tensor is not None:
                tensor.copy_(mean + spread * draw(tensor))
        variance = own.get("running_var")
        if variance is not None:
            variance.copy_((0.3 * draw(variance)).exp())
        return
    known = kind_of(module) not in ("other", "prelu")
    for name, parameter in module._parameters.items():
        if parameter is None or not parameter.is_floating_point():
            continue
        if known and name == "weight":  # keeps the scale through a ReLU, whatever the depth
            parameter.copy_(math.sqrt(2 * len(parameter) / parameter.numel()) * draw(parameter))
        else:
            parameter.add_(0.1 * draw(parameter))


def randomised(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode with random weights and statistics: no bias or BatchNorm shift hides in zeros."""
    probe = copy.deepcopy(model).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seeds.integer(0, "tracing.weights"))

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    with torch.no_grad():
        for module in probe.modules():
            _fill(module, draw)
    return probe


def _third(space: UnitSpace, group: str, number: int) -> NDArray[np.intp]:
    """The places of about a third of the units of `group`, at least one and not all. Of thirds 0, 1, 2 each unit is in one."""
    span = space.span(group)
    size = span.stop - span.start
    shuffled = seeds.stream(0, f"tracing.trial.{group}").permutation(size)
    chosen: NDArray[np.intp] = shuffled[number::_THIRDS] if number < size else shuffled[:1]
    places: NDArray[np.intp] = np.sort(chosen) + span.start
    return places


def failures(model: nn.Module, groups: Groups, inputs: Sequence[Tensor]) -> dict[str, str]:
    """Why each group whose removal is not what its masks say must not be pruned; empty if all are sound.

    A third of each group is removed, from a copy of `model` with random weights: of all groups at once, and where that fails,
    of ever fewer, on top of those found sound before. Then the second third goes, then the last, so that every unit is gone
    once: what is written into the code for certain channels shows when these are gone. Groups of layers whose names differ in
    numbers only are the same code: if the first and the last of them fail, all do. `inputs` give the shapes; every group has
    two units or more.
    """
    probe = randomised(model)
    generator = torch.Generator().manual_seed(seeds.integer(0, "tracing.input"))
    drawn = tuple(
        torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device) if x.is_floating_point() else x for x in inputs
    )
    shell = SlicedShell(probe)
    reasons: dict[str, str] = {}
    for number in range(_THIRDS):
        trial = _Trial(probe, shell, groups, drawn, number, np.zeros(len(groups.space), bool), reasons)
        names = [name for name in groups.space.groups if name not in reasons]
        if not trial.passes(names):
            for alike in _alike(groups):
                left = [name for name in alike if name not in reasons]
                if left:
                    trial.judge(left)
    return reasons


def _alike(groups: Groups) -> list[list[str]]:
    """The names of the groups in families of the same layers, but for the numbers in their names."""
    families: dict[tuple[str, ...], list[str]] = {}
    for group in groups.groups:
        layers = tuple(dict.fromkeys(re.sub(r"\d+", "#", f"{member.layer} {member.side}") for member in group.members))
        families.setdefault(layers, []).append(group.name)
    return list(families.values())


@dataclass
class _Trial:
    """The trial of one `third`: what was `removed` so far and found sound, and the `reasons` against the rest."""

    probe: nn.Module
    shell: SlicedShell
    groups: Groups
    inputs: tuple[Tensor, ...]
    third: int
    removed: NDArray[np.bool_]
    reasons: dict[str, str]

    def passes(self, names: Sequence[str]) -> bool:
        """Whether the groups called `names` can go, too; then they are gone."""
        tried = self.removed.copy()
        for name in names:
            tried[_third(self.groups.space, name, self.third)] = True
        reason = self._failure(Selection.of(self.groups.space, tried))
        if reason is None:
            self.removed = tried
        elif len(names) == 1:
            self.reasons[names[0]] = reason
        return reason is None

    def judge(self, names: Sequence[str]) -> None:
        """Find the unsound among the groups called `names`, which are alike."""
        if self.passes(names) or len(names) == 1:
            return
        ends = [self.passes([names[place]]) for place in (0, -1)]
        rest = names[1:-1]
        if not any(ends):
            self.reasons.update(dict.fromkeys(rest, self.reasons[names[0]]))
        elif rest:
            half = (len(rest) + 1) // 2
            for part in (rest[:half], rest[half:]):
                if part:
                    self.judge(part)

    def _failure(self, selection: Selection) -> str | None:
        """Why `selection` cannot be removed; None if the sliced network computes what the masked one does."""
        try:
            with torch.no_grad():
                cut = self.shell.cut(self.groups.cuts(selection))
                check(self.probe, self.groups, selection, cut, self.inputs, TOLERANCE)
        except SurgeryError as error:
            return f"without some of its channels the network computes something else ({error.message})"
        except Exception as error:  # whatever the foreign forward raises: the group is kept, and the reason shown
            return f"without some of its channels the network fails ({type(error).__name__})"
        return None
