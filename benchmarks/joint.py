"""Joint allocation of units and widths against greedy steps, simulated annealing and the bound, on drawn instances.

    OMP_NUM_THREADS=1 python benchmarks/joint.py [--seeds 3] [--layers 20] [--channels 64] [--steps 20000]

Networks of `--layers` convolutions of `--channels` channels: a chain, and residual blocks whose sums are one group. Losses grow
with the count as those of sorted log-normal units do, and about sixfold with every narrower width. The size is a quarter of the
dense float32 file's; with "half" it is an eighth, and exactly half of the units go. Gaps are in percent of the bound. Annealing
is `CHAINS` chains of single moves and of moves of two, with a price on bytes above the limit, ended by greedy steps. CPU
seconds of one thread.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qcompress.groups import Group, Groups, Layer, Member
from qcompress.joint.allocation import allocate_bytes
from qcompress.joint.greedy import greedy
from qcompress.joint.held import allocate_held, counted
from qcompress.joint.sizes import FileFacts, Sizes
from qcompress.joint.table import State, Table
from qcompress.widths import WIDTHS

CHAINS = 64


def network(kind: str, layers: int, channels: int) -> Groups:
    """A chain of convolutions from and to 3 channels, or a first one, residual blocks of two, and a last one."""
    names = [f"conv{n}" for n in range(layers)]
    if kind == "chain":
        pairs = [([n], [n + 1]) for n in range(layers - 1)]
    else:
        inner = range(1, layers - 1, 2)
        pairs = [([0, *(n + 1 for n in inner)], [*inner, layers - 1]), *(([n], [n + 1]) for n in inner)]
    every = tuple((channel,) for channel in range(channels))
    groups = [
        Group(
            names[makers[0]],
            (*(Member(names[n], "out", every) for n in makers), *(Member(names[n], "in", every) for n in takers)),
        )
        for makers, takers in pairs
    ]
    sides = [3, *[channels] * (layers - 1), 3]
    convolutions = [
        Layer(name, "conv", before, after, 9, 1, True)
        for name, (before, after) in zip(names, itertools.pairwise(sides), strict=True)
    ]
    return Groups(tuple(groups), tuple(convolutions), (), (1, 3, 1, 1))


def instance(kind: str, layers: int, channels: int, step: int, seed: int) -> Table:
    """Losses of every count that keeps a multiple of `step`, or all, and of every width."""
    rng, groups = np.random.default_rng(seed), network(kind, layers, channels)
    offers, energies = [], []
    for size in groups.space.sizes:
        offers.append([0, *(k for k in range(1, size) if (size - k) % step == 0)])
        costs = np.sort(rng.lognormal(0, 1.5, size)) * rng.lognormal(0, 1)
        energies.append(np.concatenate((np.zeros(1), np.cumsum(costs))))
    losses = [
        rng.lognormal(0, 1) * np.concatenate((np.zeros(1), np.cumsum(rng.lognormal(0, 1, 3) * 6.0 ** np.arange(3))))
        for _ in range(layers)
    ]
    return Table.of(Sizes(groups, FileFacts(500.0)), energies, offers, [np.arange(len(WIDTHS))] * layers, losses)


def anneal(table: Table, most: int, units: int | None, start: State, steps: int, seed: int) -> float:
    """The least energy of all chains that fit, after greedy steps; the number of units stays where it is given."""
    rng, held = np.random.default_rng(seed), units is not None
    groups, variables = len(table.offers), len(table.offers) + len(table.widths)
    tables = (*table.energies, *table.losses)
    lengths = np.array([len(own) for own in tables])
    padded = np.full((variables, lengths.max()), np.inf)
    for variable, own in enumerate(tables):
        padded[variable, : len(own)] = own
    x = np.tile(np.concatenate(start), (CHAINS, 1))
    every = np.arange(variables)

    def value(x: NDArray[np.int64], price: float) -> NDArray[np.float64]:
        over = np.maximum(table.bytes(x[:, :groups], x[:, groups:]) - most, 0)
        return np.asarray(padded[every, x].sum(1) + price * over)

    scale = float(padded[np.isfinite(padded)].mean())
    price = 4 * table.energy(start) / most
    now, rows = value(x, price), np.arange(CHAINS)
    for step in range(steps):
        moved = x.copy()
        first = rng.integers(groups if held and step % 2 else 0, variables, CHAINS)
        far = rng.choice([-2, -1, 1, 2], CHAINS)
        moved[rows, first] += far
        if step % 2 == 0:
            second = rng.integers(0, groups if held else variables, CHAINS)
            first = rng.integers(0, groups, CHAINS) if held else first
            moved = x.copy()
            moved[rows, first] += far
            moved[rows, second] -= far
        fine = ((moved >= 0) & (moved < lengths)).all(1)
        if held:
            fine &= table.counts(np.clip(moved[:, :groups], 0, lengths[:groups] - 1)).sum(1) == units
        after = value(np.clip(moved, 0, lengths - 1), price)
        heat = scale * 10.0 ** (-4 * step / steps)
        taken = fine & (rng.random(CHAINS) < np.exp(-np.maximum(after - now, 0) / heat))
        x[taken], now[taken] = moved[taken], after[taken]
    ends = [greedy(table, most, State(own[:groups], own[groups:]), held=held) for own in x]
    return min((table.energy(end) for end in ends if end is not None), default=np.inf)


def measure(kind: str, step: int, half: bool, seed: int, args: argparse.Namespace) -> tuple[float, float, float, float, float]:
    """Gaps to the bound in percent (joint, greedy, annealing), seconds of the joint allocation and of annealing."""
    table = instance(kind, args.layers, args.channels, step, seed)
    most = table.bytes_of(table.start) // (8 if half else 4)
    units = round(len(table.sizes.groups.space) / 2 / step) * step if half else None
    began = time.process_time()
    found = allocate_bytes(table, most) if units is None else allocate_held(table, most, units)
    took = time.process_time() - began
    first = table.start if units is None else State(counted(table, table.energies, units), table.start.widths)
    plain = greedy(table, most, first, held=half)
    began = time.process_time()
    annealed = anneal(table, most, units, plain or first, args.steps, seed)
    longer = time.process_time() - began
    bound = found.bound
    assert bound is not None
    gaps = [100 * (energy / bound - 1) for energy in (found.energy, np.inf if plain is None else table.energy(plain), annealed)]
    return gaps[0], gaps[1], gaps[2], took, longer


def lines(args: argparse.Namespace) -> Iterator[str]:
    """One line for every kind of instance."""
    for kind, step, half in itertools.product(("chain", "residual"), (1, 8), (False, True)):
        runs = [measure(kind, step, half, seed, args) for seed in range(args.seeds)]
        gaps = " | ".join(spread([run[column] for run in runs], 3) for column in range(3))
        clock = " | ".join(spread([run[column] for run in runs], 1) for column in (3, 4))
        yield f"| {kind}, blocks of {step}{', half' if half else ''} | {gaps} | {clock} |"


def spread(values: list[float], digits: int) -> str:
    """Median (least to largest)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20_000)
    args = parser.parse_args()
    print("| instance | joint, % above the bound | greedy, % | annealing, % | joint, CPU s | annealing, CPU s |")
    print("|---|---|---|---|---|---|")
    for line in lines(args):
        print(line, flush=True)


if __name__ == "__main__":
    main()
