"""The ways of choosing units that the selection benchmark compares, in one table.

A way gets the bench, a budget and the allowed counts per group, and returns a selection with what that cost. Most are one QUBO
and one capacity search; a way may as well take several steps, or measure candidates on the selection crops. What it computes
for all budgets alike goes through `Bench.once`; the report images are out of bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from selection_bench import Bench, Pass, Timed
from selection_peers import PeerImportance, peer_importance

from qcompress import choosing, qubo, reconstruction
from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.problem import Problem
from qcompress.refine.loop import refine
from qcompress.refine.objective import SlicedMetric
from qcompress.refine.proposers import proposer
from qcompress.refine.racing import Racing
from qcompress.refine.screening import Screening
from qcompress.search import to_capacity
from qcompress.selection import Selection
from qcompress.solvers import SOLVERS

__all__ = ["WAYS", "Chosen", "Cost", "Modelled", "Peer", "Qubo", "RandomUnits", "Way", "searched"]


@dataclass(frozen=True)
class Cost:
    """What a choice took. What several budgets share counts in full for each.

    forward, backward    passes of one calibration image
    evaluations          candidates measured on the selection crops, in full or in part
    calibration_seconds  of these passes and what is made of them; search_seconds of everything after
    """

    forward: int = 0
    backward: int = 0
    evaluations: int = 0
    calibration_seconds: float = 0.0
    search_seconds: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """The units that go, and what it took to say so."""

    selection: Selection
    cost: Cost


class Way(Protocol):
    """One way of choosing."""

    @property
    def objective(self) -> str:
        """What it minimises, by name."""

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Everything in it that could be set otherwise."""

    @property
    def greedy(self) -> bool:
        """Whether it ranks units one by one: no coupling between units, no search, no measurement of candidates."""

    @property
    def draws(self) -> int:
        """How many choices, of seeds of their own, a figure is the mean of."""

    def choose(self, bench: Bench, target: Budget, alignment: Alignment, seed: int) -> Chosen:
        """A selection that meets the budget with allowed counts. Raises UsageError where that cannot be."""


@runtime_checkable
class Modelled(Protocol):
    """A way that predicts the loss of any selection: by the energy of its problem."""

    def problem(self, bench: Bench) -> Problem:
        """The problem that it minimises."""


@dataclass(frozen=True)
class Qubo:
    """One objective and one capacity search with the default backend.

    passes  over the calibration crops that the objective needs
    keep    what is kept of its quadratic part: all, couplings inside groups only, or none
    """

    form: qubo.Objective
    passes: tuple[Pass, ...] = ("activations", "gradients")
    keep: Literal["all", "groups", "none"] = "all"
    greedy: bool = False
    draws = 1

    @property
    def objective(self) -> str:
        """As the tool calls it; with what was left out."""
        return qubo.name_of(self.form) + {"all": "", "groups": ", inside groups", "none": ", linear part"}[self.keep]

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Those of the objective."""
        return qubo.coefficients_of(self.form)

    def problem(self, bench: Bench) -> Problem:
        """The objective's, without what is not kept."""
        whole = qubo.formulate(self.form, bench.scores)
        if self.keep == "all":
            return whole
        return whole.inside if self.keep == "groups" else _linear(whole, whole.linear)

    def choose(self, bench: Bench, target: Budget, alignment: Alignment, seed: int) -> Chosen:
        """The selection of least energy found."""
        images = len(bench.calibration)
        cost = Cost(
            forward=images * len(self.passes),
            backward=images * self.passes.count("gradients"),
            calibration_seconds=sum(bench.pass_seconds[one] for one in self.passes),
        )
        return searched(bench, self.problem(bench), target, alignment, seed, cost)


@dataclass(frozen=True)
class RandomUnits:
    """Any units, as a baseline."""

    draws: int = 3
    objective = "random"
    greedy = False

    @property
    def coefficients(self) -> Mapping[str, float]:
        """None."""
        return {}

    def choose(self, bench: Bench, target: Budget, alignment: Alignment, seed: int) -> Chosen:
        """Those of the least random cost."""
        problem = qubo.formulate(qubo.Random(seed), bench.scores)
        return searched(bench, problem, target, alignment, seed, Cost())


@dataclass(frozen=True)
class Peer:
    """Torch-Pruning's importance of our units, ranked over all groups (see `selection_peers`)."""

    importance: PeerImportance
    greedy = True
    draws = 1

    @property
    def objective(self) -> str:
        """Torch-Pruning's name for it."""
        return f"Torch-Pruning {self.importance}"

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Its defaults."""
        return {}

    def problem(self, bench: Bench) -> Problem:
        """Linear: the importance of each unit."""
        return _linear(qubo.formulate(qubo.Magnitude(), bench.scores), self._scores(bench).value)

    def choose(self, bench: Bench, target: Budget, alignment: Alignment, seed: int) -> Chosen:
        """The least important units."""
        images = len(bench.calibration) if self.importance == "GroupTaylorImportance" else 0
        cost = Cost(forward=images, backward=images, calibration_seconds=self._scores(bench).seconds)
        return searched(bench, self.problem(bench), target, alignment, seed, cost)

    def _scores(self, bench: Bench) -> Timed[NDArray[np.float64]]:
        return bench.once(self.objective, lambda: peer_importance(bench, self.importance))


@dataclass(frozen=True)
class InSteps:
    """One objective made of scores that are taken anew in steps, as `prune --relinearise` does it."""

    form: qubo.Objective
    steps: int = 6
    greedy = False
    draws = 1

    @property
    def objective(self) -> str:
        """As the tool calls it."""
        return f"{qubo.name_of(self.form)}, {self.steps} steps"

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Those of the objective."""
        return qubo.coefficients_of(self.form)

    def problem_at(self, bench: Bench, target: Budget, alignment: Alignment) -> Timed[Problem]:
        """The problem of the last step."""
        settings = bench.job.settings
        search = replace(settings.search, objective=self.form, relinearise=self.steps)
        job = replace(bench.job, settings=replace(settings, search=search))
        began = bench.clock()
        with job.crew() as crew:
            made = choosing.problem(job, crew, target, alignment)
        return Timed(made, bench.clock() - began)

    def choose(self, bench: Bench, target: Budget, alignment: Alignment, seed: int) -> Chosen:
        """The selection of least energy in the last step."""
        images = len(bench.calibration) * self.steps
        made = self.problem_at(bench, target, alignment)
        cost = Cost(forward=2 * images, backward=images, calibration_seconds=made.seconds)
        return searched(bench, made.value, target, alignment, seed, cost)


@dataclass(frozen=True)
class Reconstructed:
    """What is lost once the layers behind are refitted: the tool's own where it repairs."""

    calibrated: bool = True
    greedy = False
    draws = 1

    @property
    def objective(self) -> str:
        """As the tool calls it; with what was left out."""
        return "reconstruction" + ("" if self.calibrated else ", not calibrated")

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Whether losses were corrected by measurements."""
        return {"calibrated": float(self.calibrated)}

    def problem_at(self, bench: Bench, target: Budget, alignment: Alignment) -> Timed[Problem]:
        """The problem near what elimination and allocation gave."""
        began = bench.clock()
        return Timed(reconstruction.formulate(self._known(bench).value, target, alignment, 0).problem, bench.clock() - began)

    def choose(self, bench: Bench, target: Budget, alignment: Alignment, seed: int) -> Chosen:
        """The selection of least energy."""
        known, made = self._known(bench), self.problem_at(bench, target, alignment)
        images = len(bench.calibration)
        cost = Cost(
            forward=2 * images + 8 * known.value.measurements, backward=images, calibration_seconds=known.seconds + made.seconds
        )
        return searched(bench, made.value, target, alignment, seed, cost)

    def _known(self, bench: Bench) -> Timed[reconstruction.Eliminated]:
        job = bench.job
        return bench.once(
            self.objective,
            lambda: reconstruction.eliminated(
                job.model, job.groups, bench.calibration, job.metric, job.static_repair.moments, calibrated=self.calibrated
            ),
        )


@dataclass(frozen=True)
class Refined:
    """A way, and a refinement of what it chose on the selection crops: as cut, or after a static repair.

    helped  by screening with the way's energies and by racing
    """

    way: InSteps | Reconstructed
    proposer: str
    repaired: bool
    helped: bool = True
    evaluations: int = 300
    greedy = False
    draws = 1

    @property
    def objective(self) -> str:
        """What was refined, and by what."""
        return f"{self.way.objective}, {self.evaluations} evaluations of {self.proposer}{'' if self.helped else ', alone'}"

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Those of the way, and the evaluations."""
        return {**self.way.coefficients, "evaluations": float(self.evaluations)}

    def choose(self, bench: Bench, target: Budget, alignment: Alignment, seed: int) -> Chosen:
        """The best candidate measured on all selection crops."""
        job, made = bench.job, self.way.problem_at(bench, target, alignment)
        start = self.way.choose(bench, target, alignment, seed)
        began = bench.clock()
        evaluate = SlicedMetric(
            job.model,
            job.groups,
            bench.selection,
            job.metric.chooser,
            weights=job.static_repair if self.repaired else None,
        )
        found = refine(
            evaluate,
            start.selection,
            evaluations=self.evaluations,
            seed=seed,
            feasible=lambda one: alignment.allows(one.space.counts(one.x)),
            surrogate=made.value.energy if self.helped else None,
            proposer=proposer(self.proposer, inside=not alignment.free),
            screening=Screening() if self.helped else None,
            racing=Racing() if self.helped else None,
        )
        seconds = start.cost.search_seconds + bench.clock() - began
        return Chosen(found.selection, replace(start.cost, evaluations=found.candidates, search_seconds=seconds))


def searched(bench: Bench, problem: Problem, target: Budget, alignment: Alignment, seed: int, cost: Cost) -> Chosen:
    """The capacity search with the default backend; its seconds are added to `cost`."""
    began = bench.clock()
    found = to_capacity(problem, target, SOLVERS["profile"], seed, align=alignment)
    return Chosen(found.selection, replace(cost, search_seconds=cost.search_seconds + bench.clock() - began))


def _linear(like: Problem, linear: NDArray[np.float64]) -> Problem:
    return Problem(like.space, linear, tuple(np.zeros((size, size)) for size in like.space.sizes))


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "random (3 draws)": RandomUnits(),
        "magnitude": Qubo(qubo.Magnitude(), (), greedy=True),
        "Torch-Pruning magnitude": Peer("MagnitudeImportance"),
        "l1-qubo": Qubo(qubo.L1Qubo(), ()),
        "taylor": Qubo(qubo.Taylor(), ("gradients",), greedy=True),
        "Torch-Pruning Taylor": Peer("GroupTaylorImportance"),
        "fisher": Qubo(qubo.Fisher(), ("gradients",), greedy=True),
        "taylor + fisher": Qubo(qubo.Hybrid(similarity=0.0), ("gradients",), greedy=True),
        "hybrid": Qubo(qubo.Hybrid()),
        "hybrid, similarity 0.3": Qubo(qubo.Hybrid(similarity=0.3)),
        "hybrid, similarity 1": Qubo(qubo.Hybrid(similarity=1.0)),
        "interaction, linear part": Qubo(qubo.Interaction(), ("gradients",), keep="none", greedy=True),
        "interaction, inside groups": Qubo(qubo.Interaction(), ("gradients",), keep="groups"),
        "interaction": Qubo(qubo.Interaction(), ("gradients",)),
        "taylor + fisher, 6 steps": InSteps(qubo.Hybrid(similarity=0.0)),
        "hybrid, 6 steps": InSteps(qubo.Hybrid()),
        "reconstruction, not calibrated": Reconstructed(calibrated=False),
        "reconstruction (default)": Reconstructed(),
        "hybrid, 6 steps, refined": Refined(InSteps(qubo.Hybrid()), "tensor-train", repaired=False),
        "hybrid, 6 steps, random swaps": Refined(InSteps(qubo.Hybrid()), "hill-climbing", repaired=False, helped=False),
        "reconstruction, refined": Refined(Reconstructed(), "tensor-train", repaired=True),
        "reconstruction, random swaps": Refined(Reconstructed(), "hill-climbing", repaired=True, helped=False),
    }
)
"""By the names that --ways takes and the tables show."""
