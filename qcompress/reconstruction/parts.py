"""The loss of a selection after a static repair, as one least-squares problem per division of a consumer.

With P the inverse of the (damped) second moments of what a division sees and B its weights times the square root of the
output's sensitivity, removing the columns S and refitting the others costs  |B_S' (P_SS)^-1 B_S|  (Hassibi and Stork, NIPS
1992, for one weight; here blocks of a unit's columns). It is the Schur complement of the moments on S, weighted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcompress.groups import Group, Groups, Member
from qcompress.recover.moments import SecondMoments

__all__ = ["RIDGE", "Part", "parts_of"]

RIDGE = 1e-3
"""Times the mean of x^2, when units are judged: what the moments of a few crops say of small directions is noise."""


@dataclass(frozen=True, eq=False)
class Part:
    """One division of one consumer, float64.

    inverse  (D, D) inverse of the damped second moments, the constant 1 in the last place; symmetric
    targets  (D, outputs) the dense weights times the square root of the sensitivity: squares are squares of the network's
             output. At most D columns: more are exchanged for as many with the same products of rows
    columns  per group (by its place) that the division sees: (units, K) the columns of each unit
    """

    layer: str
    inverse: Tensor
    targets: Tensor
    columns: Mapping[int, Tensor]


def parts_of(groups: Groups, moments: Mapping[str, SecondMoments], sensitivity: Mapping[str, Tensor]) -> tuple[Part, ...]:
    """The parts of all consumers that both are known of, in order of execution."""
    members: dict[str, dict[int, Member]] = {}
    for number, group in enumerate(groups.groups):
        for member in group.side("in"):
            members.setdefault(member.layer, {})[number] = member
    found = []
    for layer in groups.layers:
        if layer.name in members and layer.name in moments and layer.name in sensitivity:
            found.extend(_divisions(layer.name, moments[layer.name], sensitivity[layer.name], members[layer.name], groups))
    return tuple(found)


def _divisions(name: str, found: SecondMoments, feels: Tensor, members: Mapping[int, Member], groups: Groups) -> list[Part]:
    second = found.damped(RIDGE)
    parts = []
    for division in range(len(second)):
        columns = {
            number: torch.from_numpy(own).to(second.device)
            for number, member in members.items()
            if (own := _columns(groups.groups[number], member, division, found)).size
        }
        if columns:
            inverse = torch.linalg.inv(second[division])
            targets = _weighted(found.weight[division], feels[division] * found.seen, found.shared)
            parts.append(Part(name, (inverse + inverse.T) / 2, targets, columns))
    return parts


def _columns(group: Group, member: Member, division: int, found: SecondMoments) -> np.ndarray:
    """(units, K) columns of the division that each unit owns; empty where it owns none there."""
    each = found.channels
    own = [[c - division * each for c in channels if c // each == division] for channels in member.channels]
    if len({len(channels) for channels in own}) != 1:
        raise ValueError(f"group {group.name}: its units own different numbers of channels of a division of {member.layer}")
    return np.array([found.columns(channels) for channels in own], np.int64)


def _weighted(weight: Tensor, feels: Tensor, shared: int) -> Tensor:
    """(D, outputs * shared or D) the weights times the square root of `feels` (outputs, outputs), for every tap alike."""
    values, vectors = torch.linalg.eigh((feels + feels.T) / 2)
    root = vectors * values.clamp(min=0).sqrt()
    rooted: Tensor = (weight.reshape(len(weight), shared, -1) @ root).reshape(len(weight), -1)
    if rooted.shape[1] > len(rooted):
        triangle: Tensor = torch.linalg.qr(rooted.T, mode="r").R
        return triangle.T
    return rooted
