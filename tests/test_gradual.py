"""Pruning in steps: one selection of the dense network's units, which meets the budget, whatever the steps were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively
from torch import nn

from qcompress import checkpoints, deciding, finetuning, gradual, pipeline, surgery
from qcompress.alignment import Alignment
from qcompress.architectures.half_unet import HalfUNet
from qcompress.budgets import CostBudget
from qcompress.data import splits
from qcompress.data.images import Pair
from qcompress.errors import ArchitectureError, UsageError
from qcompress.finetune import state as states
from qcompress.gradual import decided, remaining
from qcompress.memo import Memo
from qcompress.pipeline import Job
from qcompress.progress import SILENT
from qcompress.protection import protected
from qcompress.searching import Found
from qcompress.selection import Selection, UnitSpace
from qcompress.settings import DataOptions, FinetuneOptions, RefineOptions, SearchOptions, Settings


@pytest.fixture(scope="module")
def job() -> Job:
    model, rng = lively(HalfUNet(3, 8, 2, ghost=False)), np.random.default_rng(0)
    inputs = rng.random((8, 3, 16, 16), np.float32)
    pairs = [Pair(f"{n}", f"{n}", image, image) for n, image in enumerate(inputs)]
    settings = Settings(
        steps=3, refine=RefineOptions(0), search=SearchOptions(align=1), data=DataOptions(calibration_crops=8, crop=16)
    )
    images = splits.from_pairs(pairs, seed=0)
    return pipeline.prepare(checkpoints.of_module(model), settings, SILENT, size=16, images=images)


def with_settings(job: Job, **options: object) -> Job:
    return replace(job, settings=replace(job.settings, **options).resolved())  # type: ignore[arg-type]


def run(job: Job, folder: Path | None = None) -> tuple[pipeline.Choice, nn.Module, gradual.Aim]:
    aim = job.asked
    choice, recovered = decided(job, aim, pipeline.choose, pipeline.repair, folder)
    return choice, recovered.model, aim


@pytest.mark.parametrize(("budget", "align"), [("filters", 1), ("macs", 4)])
def test_the_composed_selection_is_the_network_that_the_steps_left(job: Job, budget: str, align: int) -> None:
    """Without repair weights are only cut: those of three cuts are those of one, number for number."""
    job = with_settings(job, recover="none", budget=budget, sparsity=0.6, search=SearchOptions(align=align, relinearise=1))
    choice, model, (target, alignment) = run(job)
    at_once = surgery.slim(job.model, job.groups.cuts(choice.kept)).state_dict()
    found = model.state_dict()
    assert found.keys() == at_once.keys()
    for name, tensor in found.items():
        if "running" not in name:  # re-estimated where that measured better
            assert torch.equal(tensor, at_once[name]), name
    counts = choice.kept.space.counts(choice.kept.x)
    assert choice.kept.space == job.groups.space
    assert target.capacity(counts) == target.target if budget == "filters" else target.capacity(counts) >= target.target
    assert alignment.allows(counts)
    assert choice.search is not None
    assert choice.search.asked == target.target
    assert choice.search.capacity == target.capacity(counts)
    assert [step.pruned for step in choice.trail] == sorted(step.pruned for step in choice.trail)
    assert 0 < choice.trail[0].pruned < choice.trail[1].pruned < len(choice.kept)


def test_what_is_protected_stays_in_every_step(job: Job) -> None:
    """Shares are of the dense groups: three quarters of what is left would be less at each step."""
    names = [group.name for group in job.groups.groups]
    search = SearchOptions(
        align=1, relinearise=1, keep={names[0]: 0.75}, keep_at_most={names[1]: 0.5}, multiple_of={names[2]: 4}
    )
    job = with_settings(job, recover="none", sparsity=0.6, search=search)
    job = replace(job, groups=protected(job.groups, search), memo=Memo())
    seen = []
    choose = pipeline.choose

    def watched(job: Job, *, folder: Path | None = None, given: Found | None = None) -> pipeline.Choice:
        choice = choose(job, folder=folder, given=given)
        seen.append([len(choice.kept.kept(name)) for name in names])
        return choice

    aim = job.asked
    choice, _ = decided(job, aim, watched, pipeline.repair)
    sizes, last = [group.size for group in job.groups.groups], seen[-1]
    assert len(seen) == 3
    for kept in seen:
        assert kept[0] >= 0.75 * sizes[0]
        assert kept[1] <= 0.5 * sizes[1]
        assert kept[2] % 4 == 0
    assert [len(choice.kept.kept(name)) for name in names] == last
    assert aim[1].allows(choice.kept.space.counts(choice.kept.x))


@pytest.mark.slow
def test_a_refined_selection_is_the_same_from_the_cache(job: Job, tmp_path: Path) -> None:
    """report.metric.refined and the notes are of it: found among the last slim network's units, kept as the dense one's."""
    options = {"recover": "none", "sparsity": 0.6, "steps": 2, "cache": tmp_path}
    job = with_settings(job, refine=RefineOptions(12), search=SearchOptions(align=1, relinearise=1), **options)
    first, again = (deciding.decided(job, tmp_path / "net.slim", None, "0" * 64, resume=False)[0] for _ in range(2))
    assert (first.recalled, again.recalled) == (False, True)
    assert first.refined != first.selected
    assert vars(again) == vars(first) | {"recalled": True}


@pytest.mark.slow
def test_every_step_is_trained_by_the_dense_network_and_ctrl_c_skips_no_pruning(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "precision_on", lambda _: "float32")
    options = FinetuneOptions(steps=16, rate=1e-3, teaching=1.0, batch=2, crop=8)
    job = with_settings(job, recover="finetune", finetune=options, sparsity=0.5)
    whole, expected, _ = run(job, tmp_path / "whole")
    assert [path.name for path in states.files(tmp_path / "whole")] == [f".finetune-{n}.safetensors" for n in (1, 2, 3)]
    assert all(step.trained is not None and step.trained >= step.repaired for step in whole.trail)

    write, calls = states.write, iter(range(100))

    def interrupted(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        if next(calls) == 6:  # in the second step
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(states, "write", interrupted)
        early, _, (target, _) = run(job, tmp_path / "early")
    assert len(early.kept) == target.target
    assert early.trail[1].trained is not None
    resumed, found, _ = run(job, tmp_path / "early")
    assert resumed.kept == whole.kept
    assert resumed.trail == whole.trail
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_what_is_left_of_a_cost_is_counted_as_the_dense_network_counts_it(job: Job) -> None:
    target = replace(job, settings=replace(job.settings, budget="macs")).asked[0]
    assert isinstance(target, CostBudget)
    gone = Selection(job.groups.space, (0, 1, 8, 20, 21))
    left = gradual._Course(job, (target, Alignment(job.groups.space)), pipeline.choose, pipeline.repair, None)
    left._gone = gone
    slim = left._slimmed(surgery.slim(job.model, job.groups.cuts(gone)))
    rest = remaining(target, gone, slim.groups)
    further = Selection(slim.groups.space, (1, 7, 12))
    counts = gradual.composed(gone, further)
    freed = rest.capacity(further.space.counts(further.x))
    assert freed - rest.target == target.capacity(counts.space.counts(counts.x)) - target.target
    assert slim.groups.macs() == job.groups.macs(gone.counts)


def test_steps_of_alignment_stay_those_of_the_dense_groups() -> None:
    assert Alignment(UnitSpace.of([("a", 64)]), 16).allowed == ((0, 16, 32, 48),)
    assert Alignment(UnitSpace.of([("a", 16)]), 16).allowed == ((0, 8),)
    assert Alignment(UnitSpace.of([("a", 16)]), 16, fixed=(16,)).allowed == ((0,),)
    assert Alignment(UnitSpace.of([("a", 48)]), 16, fixed=(16,)).allowed == ((0, 16, 32),)
    with pytest.raises(ValueError, match="steps are"):
        Alignment(UnitSpace.of([("a", 48)]), 16, fixed=(16, 8))


def test_machines_elsewhere_and_other_groups_are_refused(job: Job) -> None:
    with pytest.raises(UsageError, match="steps 3"):
        run(with_settings(job, search=SearchOptions(backend="qpu")))
    space = job.groups.space
    larger = UnitSpace(space.groups, (space.sizes[0] + 2, *space.sizes[1:]), space.floors)
    with pytest.raises(ArchitectureError, match=f"expected {space.sizes[0] + 1}"):
        gradual._check(job.groups, Selection(larger, (0,)))
