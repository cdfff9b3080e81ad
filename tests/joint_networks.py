"""Networks as values for the tests of joint pruning and quantisation: no module, only what decides costs."""

from __future__ import annotations

import itertools

import numpy as np

from qcompress.groups import Group, Groups, Layer, Member
from qcompress.joint.sizes import FileFacts, Sizes
from qcompress.joint.table import Table
from qcompress.search_profiles import Profile
from qcompress.widths import WIDTHS

__all__ = ["chain", "losses_of", "profiles_of", "random_table", "residual"]


def _member(layer: str, side: str, channels: range) -> Member:
    return Member(layer, side, tuple((channel,) for channel in channels))  # type: ignore[arg-type]


def chain(channels: tuple[int, ...], kernel: int = 9) -> Groups:
    """Convolutions from 3 channels through `channels` to 3; every one but the last is the producer of a group."""
    sides = [3, *channels, 3]
    layers = tuple(
        Layer(f"conv{n}", "conv", before, after, kernel, 16, True)
        for n, (before, after) in enumerate(itertools.pairwise(sides))
    )
    groups = tuple(
        Group(f"conv{n}", (_member(f"conv{n}", "out", range(size)), _member(f"conv{n + 1}", "in", range(size))))
        for n, size in enumerate(channels)
    )
    return Groups(groups, layers, (), (1, 3, 4, 4))


def residual(blocks: int, size: int) -> Groups:
    """A first convolution, blocks of two whose sums stay in one group, a concatenation of that group with the first block's
    inner one, a BatchNorm that is folded, a depthwise convolution and a linear layer.
    """
    stream, members = range(size), [_member("first", "out", range(size))]
    layers = [Layer("first", "conv", 3, size, 9, 16, False), Layer("norm", "batchnorm", size, size, 2, 0, True)]
    groups = []
    members.append(_member("norm", "out", stream))
    for b in range(blocks):
        layers += [
            Layer(f"b{b}.in", "conv", size, size, 9, 16, True),
            Layer(f"b{b}.out", "conv", size, size, 9, 16, True),
        ]
        members += [_member(f"b{b}.in", "in", stream), _member(f"b{b}.out", "out", stream)]
        own = [_member(f"b{b}.in", "out", stream), _member(f"b{b}.out", "in", stream)]
        if b == 0:
            own.append(_member("joined", "in", range(size, 2 * size)))
        groups.append(Group(f"b{b}.in", tuple(own)))
    members += [_member("joined", "in", stream), _member("each", "out", stream)]
    layers += [
        Layer("each", "depthwise", size, size, 9, 16, True, size),
        Layer("joined", "conv", 2 * size, size, 1, 16, True),
        Layer("head", "linear", size, 5, 1, 1, True),
    ]
    last = Group("joined", (_member("joined", "out", stream), _member("head", "in", stream)))
    return Groups((Group("first", tuple(members)), *groups, last), tuple(layers), (), (1, 3, 4, 4))


def random_table(
    groups: Groups, seed: int, *, step: int = 1, widths: tuple[str, ...] = WIDTHS, facts: FileFacts | None = None
) -> Table:
    """Losses that grow with the count as they do in trained networks, and with every narrower width by a factor."""
    rng, sizes = np.random.default_rng(seed), Sizes(groups, facts or FileFacts(500.0))
    space = groups.space
    offers = [
        np.array([k for k in range(size - floor + 1) if (size - k) % step == 0 or k == 0], np.int64)
        for size, floor in zip(space.sizes, space.floors, strict=True)
    ]
    energies = []
    for offer, size in zip(offers, space.sizes, strict=True):
        costs = np.sort(rng.lognormal(0, 1.5, size)) * rng.lognormal(0, 1)
        energies.append(np.concatenate((np.zeros(1), np.cumsum(costs)))[offer])
    places = np.array([WIDTHS.index(width) for width in widths], np.int64)
    offered, losses = [], []
    for layer in sizes.layers:
        free = layer.name in sizes.quantisable
        offered.append(places if free else np.zeros(1, np.int64))
        rises = rng.lognormal(0, 1, len(widths) - 1) * 6.0 ** np.arange(len(widths) - 1)
        growth = np.cumsum(np.concatenate((np.zeros(1), rises)))
        losses.append(rng.lognormal(0, 1) * growth if free else np.zeros(1))
    return Table(sizes, tuple(offers), tuple(energies), tuple(offered), tuple(losses))


def profiles_of(table: Table, seed: int) -> list[Profile]:
    """The energies of a table of all counts as profiles, whose units leave in a random order."""
    rng, profiles = np.random.default_rng(seed), []
    space = table.sizes.groups.space
    for size, floor, energies in zip(space.sizes, space.floors, table.energies, strict=True):
        rows, order = np.zeros((size - floor + 1, size), bool), rng.permutation(size)
        for count, unit in enumerate(order[: size - floor].tolist(), 1):
            rows[count:, unit] = True
        profiles.append(Profile(np.zeros(size), np.zeros((size, size)), energies, rows))
    return profiles


def losses_of(table: Table) -> dict[str, dict[str, float]]:
    """The losses of a table by layer and width."""
    layers = zip(table.sizes.layers, table.widths, table.losses, strict=True)
    return {
        layer.name: {WIDTHS[place]: float(loss) for place, loss in zip(places, values, strict=True)}
        for layer, places, values in layers
        if len(places) > 1
    }
