"""The problem as a step of a run: scores in steps, and an objective that looks at calibration crops alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loads import crew, same, zoo_load
from torch import Tensor

from qcompress import choosing, pipeline, qubo, scoring
from qcompress.data.images import SelectionImages
from qcompress.masks import consumer_masks
from qcompress.progress import SILENT
from qcompress.qubo import Hybrid, Reconstruction
from qcompress.scoring import batch_gradients
from qcompress.settings import DataOptions, RefineOptions, SearchOptions, Settings
from qcompress.workers.contract import Backward

SETTINGS = Settings(
    data=DataOptions(noise="gaussian:25", calibration_crops=6, selection_crops=4, crop=32),
    refine=RefineOptions(evaluations=0),
    search=SearchOptions(align=1),
)


def job_of(checkpoint: Path, images: Path, settings: Settings) -> pipeline.Job:
    return pipeline.prepare(checkpoint, replace(settings, data=replace(settings.data, source=images)).resolved(), SILENT)


def test_gradients_at_pruned_masks_are_those_of_the_masked_network() -> None:
    load = zoo_load(images=3)
    pruned = (0, 5, 11)
    inputs, targets = load.calibration.inputs, load.calibration.targets
    found = batch_gradients(load.model, load.groups, inputs, targets, load.metric.loss, pruned)

    def losses(masks: Tensor) -> Tensor:
        with torch.no_grad(), consumer_masks(load.model, load.groups, masks):
            return load.metric.loss(load.model(inputs.clone()), targets)

    masks = torch.ones(1, len(load.groups.space), dtype=torch.float64)
    masks[0, list(pruned)] = 0.0
    step = 1e-6
    for unit in (0, 1, 5, 11, 12, len(load.groups.space) - 1):
        there, back = masks.clone(), masks.clone()
        there[0, unit] += step
        back[0, unit] -= step
        numeric = (losses(there) - losses(back)).numpy() / (2 * step)
        np.testing.assert_allclose(found[:, unit], numeric, rtol=1e-4, atol=1e-7)
    dense = batch_gradients(load.model, load.groups, inputs, targets, load.metric.loss)
    assert not np.allclose(dense, found)


def test_workers_take_gradients_at_the_same_masks() -> None:
    load = zoo_load(images=4)
    with crew(load, workers=1) as alone:
        plain, masked = alone.run([Backward(range(4)), Backward(range(4), (0, 5))])
    direct = [
        batch_gradients(load.model, load.groups, load.calibration.inputs, load.calibration.targets, load.metric.loss, pruned)
        for pruned in ((), (0, 5))
    ]
    np.testing.assert_allclose(plain, direct[0])
    np.testing.assert_allclose(masked, direct[1])


def test_what_went_in_one_step_is_gone_in_the_next(checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 3
    job = job_of(checkpoint, images, replace(SETTINGS, recover="none", search=replace(SETTINGS.search, relinearise=steps)))
    asked: list[tuple[int, ...]] = []
    plain = choosing.score

    def watched(job: pipeline.Job, crew: object, pruned: tuple[int, ...] = ()) -> object:
        asked.append(pruned)
        return plain(job, crew, pruned)  # type: ignore[arg-type]

    monkeypatch.setattr(choosing, "score", watched)
    target, alignment = job.asked
    with job.crew() as workers:
        found = choosing.find(job, workers, target, alignment)
    assert [len(pruned) for pruned in asked] == [round(step / steps * target.target) for step in range(steps)]
    for before, after in zip(asked, [*asked[1:], found.search.selection.pruned], strict=True):
        assert set(before) <= set(after)


def test_reconstruction_sees_calibration_crops_alone(checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(checkpoint, images, SETTINGS)
    assert isinstance(job.settings.search.objective, Reconstruction)

    def forbidden(*_: object) -> None:
        raise AssertionError("the selection images are for others")

    monkeypatch.setattr(pipeline.Job, "selection", forbidden)
    monkeypatch.setattr(SelectionImages, "crops", forbidden)
    target, alignment = job.asked
    with job.crew() as workers:
        found = choosing.find(job, workers, target, alignment)
    assert len(found.search.selection) == target.target
    assert {"second moments", "reconstruction", "capacity search"} <= job.watch.seconds.keys()
    assert "scores" not in job.watch.seconds


def test_a_run_is_the_same_for_one_and_two_workers(checkpoint: Path, images: Path) -> None:
    found = []
    for workers in (1, 2):
        settings = replace(SETTINGS, workers=workers, refine=RefineOptions(evaluations=6))
        job = job_of(checkpoint, images, settings)
        choice, recovered = pipeline.repair(job, pipeline.choose(job))
        assert choice.search is not None
        assert choice.refinement is not None
        weights = [tensor.numpy() for tensor in recovered.model.state_dict().values()]
        found.append([choice.selected.x, choice.kept.x, choice.search.energy, vars(choice.refinement), weights])
    assert same(found[0], found[1])


def test_hybrid_in_one_step_is_the_plain_formulation(checkpoint: Path, images: Path) -> None:
    job = job_of(checkpoint, images, replace(SETTINGS, search=replace(SETTINGS.search, objective=Hybrid())))
    target, alignment = job.asked
    with job.crew() as workers:
        made = choosing.problem(job, workers, target, alignment)
    plain = qubo.formulate(Hybrid(), scoring.score(job.model, job.groups, job.calibration(), job.metric.loss))
    np.testing.assert_allclose(made.linear, plain.linear)
