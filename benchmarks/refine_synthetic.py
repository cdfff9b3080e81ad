"""Refinement on stand-in networks: what each proposer makes of an equal number of evaluations.

A stand-in is an error model with the structure of a pruned network: every image has an error `e = a.x + |x F|^2` (a linear term
per unit, and the perturbations of the removed units adding up with their signs, inside and across groups), a smooth
nonlinearity on top, and a PSNR of it. The surrogate knows `a` and the couplings inside groups only, both disturbed; the
start is the surrogate's optimum by swaps. A share of 0 is the start and 1 the better of two optima of the true metric under
all single swaps, one descended to from the start, the other from the linearised truth.

    python benchmarks/refine_synthetic.py [--units 64 512] [--evaluations 300 2000] [--seeds 5] [--only NAME]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.refine.contract import Proposing
from qcompress.refine.loop import refine
from qcompress.refine.proposers import PROPOSERS
from qcompress.refine.racing import Racing
from qcompress.refine.screening import Screening
from qcompress.selection import Selection, UnitSpace

Array = NDArray[np.float64]
IMAGES = 16


@dataclass(frozen=True)
class StandIn:
    """A network's error model: `linear` (images, n), `factors` (n, p) shared by the images, `scale` and `noise` (images,)."""

    space: UnitSpace
    linear: Array
    factors: Array
    scale: Array
    noise: Array
    diagonal: Array  # the surrogate's (n,) linear term
    couplings: Array  # the surrogate's (n, n) symmetric couplings, zero across groups

    images: int = IMAGES

    def __call__(self, selections: Sequence[Selection], images: range) -> Array:
        """(K, len(images)) PSNR in dB."""
        return self.psnr(np.stack([s.x for s in selections]), slice(images.start, images.stop))

    def psnr(self, x: NDArray[np.bool_], images: slice = slice(None)) -> Array:
        """(K, images) PSNR in dB of K masks (K, n)."""
        masks = x.astype(float)
        coupled = np.sum((masks @ self.factors) ** 2, axis=1)
        return self._psnr(masks @ self.linear[images].T + coupled[:, None] * self.scale[images], images)

    def _psnr(self, error: Array, images: slice = slice(None)) -> Array:
        curved: Array = self.noise[images] + error * (1 + error / (error + 4 * self.noise[images]))
        return np.asarray(-10 * np.log10(0.003 * curved))

    def energy(self, x: NDArray[np.bool_]) -> Array:
        """(K,) energy of the surrogate, lower is better; its unit is not dB."""
        masks = x.astype(float)
        return np.asarray(masks @ self.diagonal + np.einsum("ki,ki->k", masks @ self.couplings, masks))

    def best_swap(self, x: NDArray[np.bool_]) -> tuple[float, NDArray[np.bool_]]:
        """The mean PSNR after the best single swap out of all, and the mask after it."""
        out, into = np.flatnonzero(x), np.flatnonzero(~x)
        base, total = self.linear[:, x].sum(1), x.astype(float) @ self.factors
        moved = self.factors[into][None] - self.factors[out][:, None]  # (out, into, p)
        coupled = np.sum((total + moved) ** 2, axis=2)
        mean = np.zeros(coupled.shape)
        for image in range(self.images):
            linear = base[image] + self.linear[image, into][None] - self.linear[image, out][:, None]
            mean += self._psnr(linear + coupled * self.scale[image], slice(image, image + 1)) / self.images
        for number, unit in enumerate(out):  # never break a floor
            counts = self.space.counts(x) - np.bincount([self.space.group_of[unit]], minlength=len(self.space.sizes))
            full = counts >= np.subtract(self.space.sizes, self.space.floors)
            mean[number, full[self.space.group_of[into]]] = -np.inf
        row, column = np.unravel_index(int(mean.argmax()), mean.shape)
        swapped = x.copy()
        swapped[[out[row], into[column]]] = [False, True]
        return float(mean[row, column]), swapped

    def climb(self, x: NDArray[np.bool_]) -> float:
        """The mean PSNR of the optimum under single swaps reached from x by steepest ascent."""
        value = float(self.psnr(x[None]).mean())
        while True:
            after, swapped = self.best_swap(x)
            if after <= value + 1e-12:
                return value
            value, x = after, swapped


def stand_in(units: int, seed: int, groups: int = 8) -> tuple[StandIn, Selection, float]:
    """A problem, its start (half of the units pruned), and the value that counts as a share of 1."""
    rng = seeds.stream(seed, f"stand-in-{units}")
    size = units // groups
    space = UnitSpace.of((f"layer{g}", size) for g in range(groups))
    importance = rng.lognormal(0, 1, units) * np.repeat(rng.lognormal(0, 0.4, groups), size)
    latent = max(4, size // 3)
    inside, across = rng.normal(size=(units, groups * latent)), rng.normal(size=(units, units // 4))
    inside *= np.repeat(np.eye(groups), size, 0)[:, np.repeat(np.arange(groups), latent)]
    strength = np.sqrt(importance / units)[:, None]
    factors = strength * np.concatenate((inside / np.sqrt(latent), 0.7 * across / np.sqrt(across.shape[1])), 1)
    linear = importance / units * rng.lognormal(0, 0.5, (IMAGES, units))
    scale = rng.lognormal(0, 0.3, IMAGES)
    noise = 0.3 * rng.lognormal(0, 0.5, IMAGES)
    gram = np.where(space.group_of[:, None] == space.group_of, factors @ factors.T, 0)
    disturbance = rng.lognormal(0, 0.35, (units, units))
    couplings = gram * (disturbance + disturbance.T) / 2
    np.fill_diagonal(couplings, 0)
    diagonal = (linear.mean(0) + np.diag(gram)) * rng.lognormal(0, 0.6, units)
    problem = StandIn(space, linear, factors, scale, noise, diagonal * 1e3, couplings * 1e3)
    start = Selection.of(space, descend(problem, np.argsort(diagonal), units // 2))
    importance_first = np.zeros(units, bool)
    importance_first[_cheapest(space, linear.mean(0) + np.sum(factors**2, 1), units // 2)] = True
    return problem, start, max(problem.climb(start.x), problem.climb(importance_first))


def _cheapest(space: UnitSpace, cost: Array, count: int) -> NDArray[np.intp]:
    keep = np.concatenate([span.start + np.argsort(-cost[span])[:1] for span in space.spans])
    order = np.argsort(cost)
    return order[~np.isin(order, keep)][:count]


def descend(problem: StandIn, order: NDArray[np.intp], count: int) -> NDArray[np.bool_]:
    """(n,) mask of `count` units: greedy in `order`, then the best swaps in the surrogate's energy until none helps."""
    x = np.zeros(len(order), bool)
    x[_cheapest(problem.space, np.argsort(order).astype(float), count)] = True
    group_of, room = problem.space.group_of, np.subtract(problem.space.sizes, problem.space.floors)
    while True:
        field = problem.diagonal + 2 * problem.couplings @ x
        out, into = np.flatnonzero(x), np.flatnonzero(~x)
        change = field[into][None] - field[out][:, None] - 2 * problem.couplings[np.ix_(out, into)]
        full = problem.space.counts(x) >= room
        change[full[group_of[into]][None] & (group_of[out][:, None] != group_of[into][None])] = np.inf
        row, column = np.unravel_index(int(change.argmin()), change.shape)
        if change[row, column] >= -1e-12:
            return x
        x[[out[row], into[column]]] = [False, True]


@dataclass(frozen=True)
class Row:
    """One way to refine. Hill climbing, screened and raced, is also the tensor train without its samples."""

    proposer: Proposing
    screening: Screening | None
    racing: Racing | None


ROWS = {
    "hill climbing": Row(PROPOSERS["hill-climbing"], None, None),
    "hill climbing, screened": Row(PROPOSERS["hill-climbing"], Screening(), None),
    "hill climbing, raced": Row(PROPOSERS["hill-climbing"], None, Racing()),
    "hill climbing, screened, raced": Row(PROPOSERS["hill-climbing"], Screening(), Racing()),
    "PROTES": Row(PROPOSERS["protes"], None, None),
    "tensor train": Row(PROPOSERS["tensor-train"], None, None),
    "tensor train, screened, raced": Row(PROPOSERS["tensor-train"], Screening(), Racing()),
}


def share(problem: StandIn, start: Selection, best: float, row: Row, evaluations: int, seed: int) -> float:
    """The share of the possible improvement that a refinement reaches."""
    result = refine(
        problem,
        start,
        evaluations=evaluations,
        seed=seed,
        surrogate=problem.energy,
        proposer=row.proposer,
        screening=row.screening,
        racing=row.racing,
    )
    return result.gain / (best - result.start_value)


def main() -> None:
    """Prints one line per way to refine: its mean share over the seeds, and each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[300, 2000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    options = parser.parse_args()
    print("share of the possible improvement: 0 = start (nothing), 1 = best optimum by swaps")
    for units in options.units:
        problems = [stand_in(units, seed) for seed in range(options.seeds)]
        for evaluations in options.evaluations:
            for name in options.only:
                began = time.perf_counter()
                shares = [share(*problem, ROWS[name], evaluations, seed) for seed, problem in enumerate(problems)]
                seconds = (time.perf_counter() - began) / len(shares)
                each = " ".join(f"{value:6.2f}" for value in shares)
                print(
                    f"{units:4} units {evaluations:5} evaluations  {name:32} {np.mean(shares):6.2f}  ({each})  {seconds:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
