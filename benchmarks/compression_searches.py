"""Searches for units and widths by what a network is worth: at random, by a genetic algorithm, by reinforcement learning.

All choose among the states of the same table: counts of every group, its units as elimination removes them, and widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from compression_bench import Evaluator
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress import seeds
from qcompress.joint.greedy import greedy
from qcompress.joint.table import State, Table

__all__ = ["Search", "at_random", "bred", "bred_blind", "learned"]

Genes = NDArray[np.int64]
"""(V,) the level of every group, then the width of every layer, as places in the table."""
Search = Callable[[Evaluator, Table, int, int, int], State]

_POPULATION = 20
_EPISODES, _HIDDEN, _RATE, _ENTROPY = 10, 64, 1e-2, 1e-2  # per step of the policy; its hidden units; of Adam; its bonus
_ENDLESS = 10**9  # generations: the number of evaluations ends the search
_PATIENCE = 3  # times the evaluations: choices drawn twice cost none


def at_random(evaluate: Evaluator, table: Table, most: int, evaluations: int, seed: int) -> State:
    """The best of random choices that fill the size."""
    rng, best = seeds.stream(seed, "compression at random"), _Best(evaluate, table)
    for _ in range(_PATIENCE * evaluations):
        if evaluate.asked >= evaluations:
            break
        best.take(_settled(table, most, rng.integers(0, _tops(table) + 1), rng))
    return best.state


def bred(evaluate: Evaluator, table: Table, most: int, evaluations: int, seed: int) -> State:
    """A genetic algorithm (pymoo's); children that do not fit are brought to the size by the least measured loss per byte."""

    def settle(genes: Genes, rng: np.random.Generator) -> Genes:
        del rng
        found = greedy(table, most, _state(table, genes))
        assert found is not None
        return np.concatenate(found)

    return _bred(evaluate, table, most, evaluations, seed, settle)


def bred_blind(evaluate: Evaluator, table: Table, most: int, evaluations: int, seed: int) -> State:
    """The same; children are brought to the size by random steps, so that it knows of no measured loss."""
    return _bred(evaluate, table, most, evaluations, seed, lambda genes, rng: _settled(table, most, genes, rng))


def _bred(
    evaluate: Evaluator,
    table: Table,
    most: int,
    evaluations: int,
    seed: int,
    settle: Callable[[Genes, np.random.Generator], Genes],
) -> State:
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.duplicate import DuplicateElimination
    from pymoo.core.mutation import Mutation
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem
    from pymoo.core.repair import Repair
    from pymoo.operators.crossover.ux import UniformCrossover

    rng, tops = seeds.stream(seed, "compression genetic"), _tops(table)

    class Steps(Mutation):  # type: ignore[misc]
        """Every gene is drawn anew with probability 1/V."""

        def _do(self, problem: Problem, X: Genes, **options: object) -> Genes:
            del problem, options
            drawn = rng.integers(0, tops + 1, X.shape)
            return np.where(rng.random(X.shape) < 1 / X.shape[1], drawn, X).astype(np.int64)

    class Fitting(Repair):  # type: ignore[misc]
        """Choices that fit."""

        def _do(self, problem: Problem, X: Genes, **options: object) -> Genes:
            del problem, options
            return np.array([settle(genes.astype(np.int64), rng) for genes in X])

    class Distinct(DuplicateElimination):  # type: ignore[misc]
        """No choice twice, of `pop` alone or beside `other`."""

        def _do(self, pop: Population, other: Population | None, is_duplicate: NDArray[np.bool_]) -> NDArray[np.bool_]:
            known = set() if other is None else {genes.tobytes() for genes in other.get("X").astype(np.int64)}
            for place, genes in enumerate(pop.get("X").astype(np.int64)):
                is_duplicate[place] = genes.tobytes() in known
                if other is None:
                    known.add(genes.tobytes())
            return is_duplicate

    first = np.array([_settled(table, most, rng.integers(0, tops + 1), rng) for _ in range(_POPULATION)])
    algorithm = GA(
        pop_size=_POPULATION,
        sampling=first,
        crossover=UniformCrossover(),
        mutation=Steps(),
        repair=Fitting(),
        eliminate_duplicates=Distinct(),
    )
    problem = Problem(n_var=len(tops), n_obj=1, xl=0, xu=np.maximum(tops, 1), vtype=int)
    algorithm.setup(problem, termination=("n_gen", _ENDLESS), seed=int(rng.integers(2**31)))
    best = _Best(evaluate, table)
    for _ in range(evaluations):
        found = algorithm.ask()
        if evaluate.asked >= evaluations or found is None or not len(found):
            break
        genes = found.get("X").astype(np.int64)[: evaluations - evaluate.asked]
        children = Population.new("X", genes)
        children.set("F", np.array([[-best.take(own)] for own in genes]))
        children.set("G", np.zeros((len(genes), 0)))
        children.set("H", np.zeros((len(genes), 0)))
        algorithm.tell(infills=children)
    return best.state


def learned(evaluate: Evaluator, table: Table, most: int, evaluations: int, seed: int) -> State:
    """REINFORCE with a mean baseline. An episode walks the layers: how much of its group is kept, then its width.

    As in AMC and HAQ (He et al., ECCV 2018; Wang et al., CVPR 2019) the size is met by the actions that are left: those after
    which even the smallest rest would not fit are masked. The reward is the metric at the end. The policy is one small network
    for all decisions, which sees which one it is, what the choice takes so far, and the last action.
    """
    walk = _walk(table)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.integer(seed, "compression policy") % 2**31)
        policy = _policy(len(walk), int(_tops(table).max()) + 1)
        optimiser = torch.optim.Adam(policy.parameters(), _RATE)
        best = _Best(evaluate, table)
        rewards: list[float] = []
        for _ in range(-(-_PATIENCE * evaluations // _EPISODES)):
            if evaluate.asked >= evaluations:
                break
            episodes = [_episode(policy, table, most, walk) for _ in range(min(_EPISODES, evaluations - evaluate.asked))]
            values = np.array([best.take(episode.genes) for episode in episodes])
            finite = values[np.isfinite(values)]
            values = np.nan_to_num(values, neginf=float(finite.min(initial=0.0)))
            rewards += values.tolist()
            worth = (values - np.mean(rewards[-100:])) / (np.std(rewards[-100:]) + 1e-9)
            terms = [-float(w) * e.likelihood - _ENTROPY * e.entropy for w, e in zip(worth, episodes, strict=True)]
            optimiser.zero_grad()
            torch.stack(terms).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return best.state


@dataclass(eq=False)
class _Best:
    """The best choice so far."""

    evaluate: Evaluator
    table: Table
    value: float = -np.inf
    genes: Genes | None = None

    def take(self, genes: Genes) -> float:
        """Its value; kept where it is the best."""
        value = self.evaluate.of(_state(self.table, genes))
        if self.genes is None or value > self.value:
            self.value, self.genes = value, genes.copy()
        return value

    @property
    def state(self) -> State:
        assert self.genes is not None
        return _state(self.table, self.genes)


@dataclass(frozen=True, eq=False)
class _Episode:
    """A choice, the logarithm of its probability, and the entropy of the decisions."""

    genes: Genes
    likelihood: Tensor
    entropy: Tensor


def _episode(policy: nn.Module, table: Table, most: int, walk: list[int]) -> _Episode:
    tops = _tops(table)
    genes, least = np.zeros(len(tops), np.int64), tops.copy()
    chances, entropies, last = [], [], 0.0
    for number, gene in enumerate(walk):
        trials = np.tile(least, (int(tops[gene]) + 1, 1))
        trials[:, gene] = np.arange(len(trials))
        fits = _bytes(table, trials) <= most
        if not fits.any():
            fits[-1] = True
        taken = float(_bytes(table, genes[None])[0]) / most
        seen = torch.tensor([*np.eye(len(walk))[number], float(gene < len(table.offers)), taken, last], dtype=torch.float32)
        logits = policy(seen)[: len(trials)].masked_fill(~torch.from_numpy(fits), -torch.inf)
        drawn = torch.distributions.Categorical(logits=logits)
        action = drawn.sample()  # type: ignore[no-untyped-call]
        chances.append(drawn.log_prob(action))  # type: ignore[no-untyped-call]
        entropies.append(drawn.entropy())  # type: ignore[no-untyped-call]
        genes[gene] = least[gene] = int(action)
        last = int(action) / max(int(tops[gene]), 1)
    return _Episode(genes, torch.stack(chances).sum(), torch.stack(entropies).mean())


def _policy(decisions: int, actions: int) -> nn.Module:
    return nn.Sequential(nn.Linear(decisions + 3, _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, actions))


def _walk(table: Table) -> list[int]:
    """The genes with a choice in the order of layers: the groups at a layer's outputs, then its width."""
    groups = len(table.offers)
    order: list[int] = []
    for place in range(len(table.widths)):
        order += [group for group, _ in table.sizes.owners(place)[1]]
        order.append(groups + place)
    tops = _tops(table)
    return [gene for gene in dict.fromkeys((*order, *range(groups))) if tops[gene] > 0]


def _tops(table: Table) -> Genes:
    """(V,) the last place of every gene: fewest units, narrowest width."""
    return np.array([len(own) - 1 for own in (*table.offers, *table.widths)], np.int64)


def _state(table: Table, genes: Genes) -> State:
    return State(genes[: len(table.offers)], genes[len(table.offers) :])


def _bytes(table: Table, genes: Genes) -> NDArray[np.int64]:
    """(K,) for genes (K, V)."""
    return table.bytes(genes[:, : len(table.offers)], genes[:, len(table.offers) :])


def _settled(table: Table, most: int, genes: Genes, rng: np.random.Generator) -> Genes:
    """Random steps to what is smaller until it fits, then random steps back as long as one fits."""
    genes, tops = genes.copy(), _tops(table)
    while int(_bytes(table, genes[None])[0]) > most:
        genes[rng.choice(np.flatnonzero(genes < tops))] += 1
    while True:
        trials = genes - np.eye(len(genes), dtype=np.int64)[genes > 0]
        fitting = trials[_bytes(table, trials) <= most] if len(trials) else trials
        if not len(fitting):
            return genes
        genes = rng.choice(fitting)
