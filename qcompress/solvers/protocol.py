"""The contracts of backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from dimod import BinaryQuadraticModel, SampleSet
    from numpy.typing import NDArray

    from qcompress.alignment import Alignment
    from qcompress.budgets import Budget
    from qcompress.problem import Problem
    from qcompress.search_profiles import Profile

__all__ = ["CapacitySolver", "ProfileSolver", "Remote", "Solver"]


class Solver(Protocol):
    """Draws low-energy samples of a binary quadratic model without constraints; its options are its fields."""

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """At least one and, where it can, `reads` (>= 1) samples over all variables of `bqm`, with their true energies.

        The same `bqm`, `reads` and `seed` (0 .. 2**31 - 1) give the same samples in every process; a backend that is a machine
        elsewhere may not keep that and says so. Any number of variables is allowed, none included.

        Raises BackendError if the backend fails, is not installed, cannot be reached, or cannot take a model of that size.
        """


@runtime_checkable
class CapacitySolver(Protocol):
    """Draws selections of low energy near a capacity: a backend with constraints of its own, which needs no gamma."""

    def at_capacity(
        self, problem: Problem, budget: Budget, alignment: Alignment, *, reads: int, seed: int
    ) -> NDArray[np.bool_]:
        """(K, n) rows in the order of the space, K >= 1, True where a unit is pruned, near the budget's target.

        The search takes them as points of the groups' profiles and meets the target by itself, so a row may miss it.

        Raises BackendError if the backend fails, is not installed, or cannot be reached.
        """


@runtime_checkable
class ProfileSolver(Protocol):
    """Improves the groups' profiles themselves: no model, no gamma."""

    def improve(
        self,
        profiles: Sequence[Profile],
        allowed: Sequence[Sequence[int]],
        allocate: Callable[[], NDArray[np.int64]],
        *,
        seed: int,
    ) -> int:
        """Improves `profiles` in place and returns the number of local searches it ran.

        `allowed` has the counts of each group that matter; `allocate` says which of them the budget wants, by the profiles
        as they are.
        """


@runtime_checkable
class Remote(Protocol):
    """A backend that is a machine elsewhere. Its options are its fields; it is used through a session."""

    def open(self, say: Callable[[str], None]) -> AbstractContextManager[Any]:
        """A session: a `Solver` or a `CapacitySolver`. `say` is told the cost beforehand.

        With an `account` (`qcompress.solvers.account.Account`) what it did is in the report; `rounds` is the number of gammas.

        Raises BackendError where it cannot be reached, or where there is no account for it.
        """
