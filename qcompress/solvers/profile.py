"""The profile backend: the least energy of every count that matters, group by group, and no gamma.

An objective without couplings between groups is settled by its groups' profiles. Small groups are enumerated; for the others a
tabu search improves the counts around those that the budget wants, which the profiles themselves tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.search_exact import enumerate_small
from qcompress.search_profiles import Profile, greedy_profile
from qcompress.solvers.components import solve_blocks
from qcompress.solvers.swap_tabu import swap_tabu

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["Profiles"]

ELEMENTS = 1 << 17
"""Rows times units of one batch: what it touches in a step stays in the processor's cache."""

SETTLED, LEAST_SETTLED = 8, 8
"""Before the searches, descent improves so many counts on each side of those wanted: one in 8 of the group, 8 at least."""

PER_UNIT = 8
"""At most so many steps for each unit of a group: small ones are soon exhausted."""

KICKS = (2, 8, 3)
"""Starts but the first swap one in so many of the units on the smaller side at random, in turn: near and far."""


@dataclass(frozen=True)
class Profiles:
    """`starts` tabu searches of `steps` steps for every count near the wanted one, `rounds` times.

    Near are `window` counts on each side.
    With an alignment one allowed count on each side is enough: they are far apart.
    """

    starts: int = 6
    steps: int = 200
    rounds: int = 3
    window: int = 2

    def improve(
        self,
        profiles: Sequence[Profile],
        allowed: Sequence[Sequence[int]],
        allocate: Callable[[], NDArray[np.int64]],
        *,
        seed: int,
    ) -> int:
        """Improves `profiles` in place around the counts that `allocate` makes of them. Returns the searches run.

        `allowed` are the counts per group that matter.
        """
        enumerate_small(profiles)
        for profile, k in zip(profiles, allocate().tolist(), strict=True):
            around = max(LEAST_SETTLED, len(profile.linear) // SETTLED)
            profile.settle(k - around, k + around)
        done = 0
        for number in range(self.rounds):
            rng = seeds.stream(seed, f"profile round {number}")
            counts = allocate()
            wanted = [self._window(offer, k) for offer, k in zip(allowed, counts.tolist(), strict=True)]
            done += self._round(profiles, wanted, rng)
            for profile, near in zip(profiles, wanted, strict=True):
                together = near[-1] - near[0] < len(near)
                for first, last in [(near[0], near[-1])] if together else [(k, k) for k in near]:
                    profile.settle(first - 1, last + 1)
        return done

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """`reads` samples; sample r has the r-th lowest count of every connected part's profile. Raises nothing of its own."""

        def solve(linear: NDArray[np.float64], couplings: NDArray[np.float64], seed: int) -> NDArray[np.int8]:
            profile = greedy_profile(linear, couplings, len(linear))
            every = range(len(linear) + 1)
            self.improve([profile], [every], lambda: np.array([profile.energies.argmin()], np.int64), seed=seed)
            lowest = np.argsort(profile.energies, kind="stable")[:reads]
            places = np.concatenate((lowest, np.full(reads - len(lowest), lowest[0])))
            return np.asarray(profile.rows[places], np.int8)

        return solve_blocks(bqm, solve, reads=reads, seed=seed)

    def _window(self, offer: Sequence[int], k: int) -> list[int]:
        """The allowed counts around k: `window` on each side, one where they are not neighbours."""
        place = int(np.searchsorted(offer, k))
        near = min(max(place, 1), len(offer) - 1)
        width = self.window if len(offer) > 1 and offer[near] - offer[near - 1] == 1 else 1
        return list(offer[max(0, place - width) : place + width + 1])

    def _round(self, profiles: Sequence[Profile], wanted: Sequence[Sequence[int]], rng: np.random.Generator) -> int:
        """Tabu searches at the `wanted` counts of every group that is not exact, groups of one size together."""
        sizes: dict[int, list[int]] = {}
        for g, profile in enumerate(profiles):
            if not profile.exact:
                sizes.setdefault(len(profile.linear), []).append(g)
        done = 0
        for size, members in sizes.items():
            tasks = [(g, k) for g in members for k in wanted[g] if 0 < k < size for _ in range(self.starts)]
            chunk = max(1, ELEMENTS // size)
            for at in range(0, len(tasks), chunk):
                self._search(profiles, tasks[at : at + chunk], rng)
            done += len(tasks)
        return done

    def _search(self, profiles: Sequence[Profile], tasks: Sequence[tuple[int, int]], rng: np.random.Generator) -> None:
        members = sorted({g for g, _ in tasks})
        group = np.array([members.index(g) for g, _ in tasks], np.intp)
        linear = np.stack([profiles[g].linear for g in members]).astype(np.float32)
        couplings = np.stack([profiles[g].couplings for g in members]).astype(np.float32)
        rows = np.stack([profiles[g].rows[k] for g, k in tasks])
        start = 0
        for i in range(1, len(tasks)):
            start = start + 1 if tasks[i] == tasks[i - 1] else 0
            if start:
                _kick(rows[i], KICKS[start % len(KICKS)], rng)
        found = swap_tabu(linear, couplings, group, rows, min(self.steps, PER_UNIT * linear.shape[1]), rng)
        for place, g in enumerate(members):
            profile = profiles[g]
            mine = found[group == place]
            profile.offer(mine)
            profile.offer(profile.descend(mine))


def _kick(row: NDArray[np.bool_], share: int, rng: np.random.Generator) -> None:
    """Swaps one in `share` pruned units for kept ones at random, in place."""
    pruned, kept = np.flatnonzero(row), np.flatnonzero(~row)
    number = -(-min(len(pruned), len(kept)) // share)
    row[rng.choice(pruned, number, replace=False)] = False
    row[rng.choice(kept, number, replace=False)] = True
