"""Costs in blocks of channels, and how many channels a unit owns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress import tracing
from qcompress.budgets import CostBudget
from qcompress.groups import Group, Groups, Layer, Member, in_blocks
from qcompress.reports import BlockCost


class Joined(nn.Module):
    """Two branches of 6 and 5 channels side by side, then a pixel shuffle of 2 by 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
        self.c, self.d = nn.Conv2d(11, 20, 1), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x).relu(), self.b(x).relu()], 1)
        out: Tensor = self.d(nn.functional.pixel_shuffle(self.c(joined), 2))
        return out


@pytest.fixture(scope="module")
def groups() -> Groups:
    return tracing.trace(Joined().eval(), torch.zeros(1, 3, 8, 8))


def test_macs_in_blocks_round_up_both_sides_of_every_layer(groups: Groups) -> None:
    assert groups.space.sizes == (6, 5, 5)

    def by_hand(a: int, b: int, c: int, align: int) -> int:
        def up(channels: int) -> int:
            return in_blocks(channels, align)

        branches = 9 * 64 * up(3) * (up(6 - a) + up(5 - b))
        return branches + 64 * up(11 - a - b) * up(4 * (5 - c)) + 256 * up(5 - c) * up(3)

    for counts, align in itertools.product(itertools.product(range(6), range(5), range(5)), (1, 4, 8)):
        by_name = dict(zip(groups.space.groups, counts, strict=True))
        assert groups.macs(by_name, align) == by_hand(*counts, align)
        assert groups.macs(by_name, align, additive=True) <= groups.macs(by_name, align)
        assert groups.macs(by_name) <= groups.macs(by_name, align, additive=True)


def test_groups_free_together_at_most_what_they_free_alone_of_the_additive_cost(groups: Groups) -> None:
    every = np.array(list(itertools.product(range(6), range(5), range(5))))

    def freed(*, additive: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        budget = CostBudget(groups.space, "macs", lambda counts: groups.macs(counts, 4, additive=additive), 1, 4)
        alone = np.sum([budget.capacity(every * (np.arange(3) == g)) for g in range(3)], axis=0)
        return budget.capacity(every), alone

    together, alone = freed(additive=True)
    assert (together <= alone).all()
    together, alone = freed(additive=False)
    assert (together > alone).any()  # why there is an additive cost: one channel of each branch frees a block


def test_widths_are_the_fewest_channels_of_a_unit(groups: Groups) -> None:
    assert groups.widths == (1, 1, 1)  # four channels before the shuffle, one behind it
    heads = tuple(tuple(range(8 * h, 8 * h + 8)) for h in range(3))
    layers = (Layer("q", "linear", 24, 24, 1, 1, True), Layer("n", "heads", 0, 3, 0, 0, False))
    one = tuple((h,) for h in range(3))
    traced = Groups((Group("q", (Member("q", "out", heads), Member("n", "out", one))),), layers, (), (1, 24))
    assert traced.widths == (8,)


def test_a_block_cost_says_its_block() -> None:
    assert BlockCost(dense=64, slim=48, block=16).model_dump() == {"dense": 64, "slim": 48, "block": 16}
