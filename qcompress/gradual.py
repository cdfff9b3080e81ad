"""Pruning in steps: a part of what is to go is chosen, removed and made good before the next part is chosen.

Every step works on the slim network of the one before, traced anew. What the steps decided is put together as a selection of
the dense network's units, so that plan, report and file are those of one cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from qcompress import finetuning, tracing
from qcompress.alignment import Alignment
from qcompress.budgets import Budget, Cost, CostBudget, CountBudget
from qcompress.errors import ArchitectureError, UsageError
from qcompress.groups import Groups
from qcompress.memo import Memo
from qcompress.recover.choice import Recovered
from qcompress.searching import Found, is_remote
from qcompress.selection import Selection
from qcompress.settings import RefineOptions

if TYPE_CHECKING:
    from qcompress.deciding import Choice
    from qcompress.jobs import Job

__all__ = ["BEFORE_LAST", "Aim", "PruningStep", "composed", "decided", "remaining"]

BEFORE_LAST = 0.5
"""Share of the fine-tuning that all steps before the last have together."""

Aim = tuple[Budget, Alignment]
"""What is to go, and the counts per group that are allowed to meet it."""

Repair = Callable[["Job", "Choice"], "tuple[Choice, Recovered]"]


class Choose(Protocol):
    """`deciding.choose`."""

    def __call__(self, job: Job, *, folder: Path | None = None, given: Found | None = None) -> Choice: ...


@dataclass(frozen=True)
class PruningStep:
    """What one step left: units gone so far, and the chooser's value on the judging crops, repaired and then trained.

    `trained` is None where it was not.
    """

    pruned: int
    repaired: float
    trained: float | None = None


def decided(
    job: Job, aim: Aim, choose: Choose, repair: Repair, folder: Path | None = None, given: Found | None = None
) -> tuple[Choice, Recovered]:
    """What goes to meet `aim`, and the network that is left, in as many steps as the settings of `job` want.

    Raises:
        UsageError: several steps with a backend elsewhere.
        ArchitectureError: the groups of a slim network are not what is left of the dense one's.

    """
    last = job.settings.steps
    if last > 1 and is_remote(job.settings.search):
        hint = "leave --steps out, or search with a backend here"
        raise UsageError(f"steps {last}: each would be a search by {job.settings.search.backend}", hint)
    course = _Course(job, aim, choose, repair, folder)
    for number in range(1, last):
        course.prune(number)
    return course.finish(given)


class _Course:
    """The steps so far: the job of the next one, what is gone of the dense network, and what was seen on the way."""

    def __init__(self, job: Job, aim: Aim, choose: Choose, repair: Repair, folder: Path | None) -> None:
        self._dense, self._aim, self._choose, self._repair, self._folder = job, aim, choose, repair, folder
        self._job, self._gone = job, Selection(job.groups.space, ())
        self._trail: tuple[PruningStep, ...] = ()
        self._trains = job.settings.recover == "finetune"

    def prune(self, number: int) -> None:
        """Step `number`, from 1, of several: not refined, and trained for a part of the time only."""
        last, (target, alignment) = self._dense.settings.steps, self._aim
        job = self._aimed(target.part(number / last), alignment)
        job = replace(job, settings=replace(job.settings, refine=RefineOptions(0)))
        choice, repaired = self._repair(job, self._choose(job))
        recovered = self._trained(job, choice, repaired, BEFORE_LAST / (last - 1), number)
        self._gone = composed(self._gone, choice.kept)
        trained = None if recovered.training is None else recovered.value
        self._trail = (*self._trail, PruningStep(len(self._gone), repaired.value, trained))
        self._dense.watch.say(f"step {number} of {last}: {len(self._gone)} units are gone, {recovered.note}")
        self._job = self._slimmed(recovered.model)

    def finish(self, given: Found | None) -> tuple[Choice, Recovered]:
        """The last step, the only one where there is one; the choice is of the dense network's units."""
        last, (target, alignment) = self._dense.settings.steps, self._aim
        job = self._dense if last == 1 else self._aimed(target, alignment)
        choice, repaired = self._repair(job, self._choose(job, folder=self._folder, given=given))
        cut_short = choice.refinement is not None and choice.refinement.interrupted
        if cut_short and self._trains:
            job.watch.say("not fine-tuned: --resume goes on with the refinement, then with that")
        share = 1.0 if last == 1 else 1.0 - BEFORE_LAST
        recovered = repaired if cut_short else self._trained(job, choice, repaired, share, last)
        return (choice if last == 1 else self._whole(choice)), recovered

    def _trained(self, job: Job, choice: Choice, recovered: Recovered, share: float, number: int) -> Recovered:
        """Unless nothing is to be, nothing was removed, or Ctrl-C has ended the training of an earlier step."""
        if not self._trains or not len(choice.kept) + len(self._gone):
            return recovered
        again = choice.search is None or not is_remote(job.settings.search)  # a machine elsewhere would find something else
        folder, teacher = self._folder if again else None, self._dense.model
        trained = finetuning.finetuned(job, recovered, dense=teacher, share=share, folder=folder, number=number)
        self._trains = trained.training is None or trained.training.complete
        return trained

    def _aimed(self, target: Budget, alignment: Alignment) -> Job:
        """The job of a step, which is to reach `target`, in units and counts of the dense network."""
        groups, dense = self._job.groups, self._dense.groups.space.groups
        steps = dict(zip(dense, alignment.steps, strict=True))
        ceilings = dict(zip(dense, alignment.ceilings, strict=bool(alignment.ceilings)))
        left = Alignment(
            groups.space,
            alignment.align,
            groups.widths,
            ceilings=tuple(ceilings[name] for name in groups.space.groups if ceilings),
            fixed=tuple(steps[name] for name in groups.space.groups),
        )
        return replace(self._job, aim=(remaining(target, self._gone, groups), left))

    def _slimmed(self, model: nn.Module) -> Job:
        """The job that goes on from `model`; its checkpoint has a hash of its own, so that nothing kept on disk is mixed up."""
        dense = self._dense
        with dense.watch.stage("coupled groups"):
            slim, search = copy.deepcopy(model).cpu(), dense.settings.search
            example = torch.zeros(dense.groups.example_shape)
            groups = tracing.trace(slim, example, ignore=search.ignore, floor=search.floor)
        _check(groups, self._gone)
        floors = dict(zip(dense.groups.space.groups, dense.groups.space.floors, strict=True))  # shares were of dense groups
        groups = replace(groups, floors=tuple(floors[name] for name in groups.space.groups))
        checkpoint = replace(dense.checkpoint, model=slim, sha256=finetuning.digest_of(slim))
        return replace(dense, checkpoint=checkpoint, model=model, groups=groups, memo=Memo(training=dense.memo.training))

    def _whole(self, choice: Choice) -> Choice:
        """`choice` in units of the dense network, with what earlier steps removed."""
        target, gone = self._aim[0], self._gone
        selected, refined, kept = (composed(gone, one) for one in (choice.selected, choice.refined, choice.kept))
        search, refinement = choice.search, choice.refinement
        if refinement is not None:
            refinement = replace(refinement, selection=refined)
        if search is not None:
            before, after = (int(target.capacity(one.space.counts(one.x))) for one in (gone, selected))
            trace = tuple(probe._replace(capacity=before + probe.capacity) for probe in search.trace)
            search = replace(search, selection=selected, asked=target.target, capacity=after, trace=trace)
        found = replace(choice, selected=selected, refined=refined, kept=kept, search=search, refinement=refinement)
        return replace(found, trail=self._trail)


def composed(gone: Selection, further: Selection) -> Selection:
    """What is pruned of the dense network where `gone` was, and then `further` of what was left.

    Groups have the same names in both spaces, and their units the same order.

    >>> from qcompress.selection import UnitSpace
    >>> dense, left = UnitSpace.of([("a", 4), ("b", 3)]), UnitSpace.of([("a", 3), ("b", 2)])
    >>> composed(Selection(dense, (0, 5)), Selection(left, (1, 4))).pruned
    (0, 2, 5, 6)
    """
    pruned = set(gone.pruned)
    for group in further.space.groups:
        kept, first = gone.kept(group), gone.space.span(group).start
        pruned |= {first + kept[unit] for unit in further.removed(group)}
    return Selection(gone.space, tuple(sorted(pruned)))


@dataclass(frozen=True)
class _Further:
    """A cost of the dense network as one of the network that is left once `gone` units of each group went."""

    cost: Cost
    gone: Mapping[str, int]

    def __call__(self, counts: Mapping[str, int]) -> int:
        return self.cost({group: before + counts.get(group, 0) for group, before in self.gone.items()})


def remaining(target: Budget, gone: Selection, left: Groups) -> Budget:
    """What is still to go of `target`, a budget of the dense network, in the groups that are left after `gone`.

    Raises UsageError for a budget of a kind that does not say its cost.
    """
    if target.counts_units:
        return CountBudget(left.space, max(0, target.target - len(gone)))
    if not isinstance(target, CostBudget):
        raise UsageError(f"budget {target.name} cannot be met in steps", "leave --steps out")
    freed = int(target.capacity(gone.space.counts(gone.x)))
    cost = _Further(target.cost, gone.counts)
    additive = None if target.additive is None else _Further(target.additive, gone.counts)
    return CostBudget(left.space, target.name, cost, max(0, target.target - freed), target.block, additive)


def _check(left: Groups, gone: Selection) -> None:
    """Raises ArchitectureError unless `left` has the groups of the dense network, with the units that did not go."""
    expected = {name: size - gone.counts[name] for name, size in zip(gone.space.groups, gone.space.sizes, strict=True)}
    for name, size in zip(left.space.groups, left.space.sizes, strict=True):
        if expected.get(name) != size:
            raise ArchitectureError(
                f"group {name} has {size} units in the slim network, expected {expected.get(name, 0)}",
                "this network cannot be pruned in steps: leave --steps out",
            )
