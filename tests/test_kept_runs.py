"""The cache of finished runs: an unchanged run only measures its speed, and what a stranger left there is not believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import photograph
from safetensors import safe_open
from torch import Tensor

from qcompress import Settings, choosing, keeping, kept_runs, pipeline, run_key
from qcompress.finetune.contract import TrainResult
from qcompress.memo import Memo
from qcompress.progress import SILENT
from qcompress.recover.choice import Recovered
from qcompress.refine.contract import Ended, RefineResult
from qcompress.selection import Selection
from qcompress.settings import DataOptions, FinetuneOptions, Limits, RefineOptions, VerifyOptions
from qcompress.sweeping import run as sweeping

RECORD = "qcompress_run"
Entry = tuple[dict[str, Tensor], dict[str, Any]]


def settings(images: Path, cache: Path | None) -> Settings:
    data = DataOptions(images, "gaussian:25", calibration_crops=6, selection_crops=4, crop=32)
    brief = VerifyOptions(size=32, max_seconds=0.2)
    return Settings(data=data, refine=RefineOptions(evaluations=4), verify=brief, cache=cache)


@pytest.fixture(scope="module")
def first(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pipeline.Result]:
    """The cache after one run, and that run."""
    folder = tmp_path_factory.mktemp("kept")
    return folder / "cache", pipeline.prune(checkpoint, settings(images, folder / "cache"), out=folder / "net.slim")


def read(path: Path) -> Entry:
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()[RECORD])


def choice_in(cache: Path) -> Path:
    """The entry that holds what was chosen."""
    (path,) = (path for path in cache.iterdir() if not path.name.endswith(".findings.safetensors"))
    return path


def refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("computed again")


@pytest.mark.slow
def test_an_unchanged_run_only_measures_its_speed(
    first: tuple[Path, pipeline.Result], checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, before = first
    places = ("choosing.find", "deciding.recover_best", "jobs.measure_moments", "findings.made", "crops.sheet")
    for place in (f"qcompress.{place}" for place in places):
        monkeypatch.setattr(place, refuse)
    again = replace(settings(images, cache), limits=Limits(max_size=1))  # limits are no part of it
    after = pipeline.prune(checkpoint, again, out=tmp_path / "net.slim")
    for name in ("model.onnx", "model.safetensors", "plan.json", "crops.png"):
        assert (tmp_path / "net.slim" / name).read_bytes() == (before.folder / name).read_bytes(), name
    assert after.report.search == before.report.search
    assert after.report.refine == before.report.refine
    assert after.report.metric == before.report.metric
    assert after.report.parity == before.report.parity
    assert after.report.crops == before.report.crops
    assert after.report.cost == before.report.cost
    assert after.report.latency != before.report.latency
    assert before.report.cached == ()
    assert after.report.cached == ("search", "refine", "recover", "metric", "parity", "crops")
    assert any("earlier, equal run" in note for note in after.report.notes)
    assert after.exit_code == 4
    assert len(list(cache.iterdir())) == 2


def test_the_key_is_of_what_matters(checkpoint: Path, images: Path) -> None:
    plain = settings(images, None)

    def key(changed: Settings) -> str | None:
        job = pipeline.prepare(checkpoint, changed, SILENT)
        return run_key.key_of(job)

    known = key(plain)
    assert known is not None
    assert key(replace(plain, limits=Limits(max_drop=1.0), cache=Path("x"))) == known
    others = [replace(plain, seed=1), replace(plain, sparsity=0.25), replace(plain, workers=1), replace(plain, recover="none")]
    others.append(replace(plain, data=replace(plain.data, noise="gaussian:20")))
    assert len({known, *map(key, others)}) == len(others) + 1


def test_what_is_trained_on_is_part_of_it(checkpoint: Path, images: Path) -> None:
    """All of it: windows are drawn from images that no crop is of, and noise is drawn anew."""
    plain = settings(images, None)
    few = replace(plain, data=replace(plain.data, calibration_crops=1))
    job = pipeline.prepare(checkpoint, few, SILENT)
    *pairs, last = job.splits.calibration.pairs
    assert pairs
    noisier = replace(job.splits.calibration, pairs=(*pairs, replace(last, input=last.input + np.float32(1e-3))))
    others = [
        replace(job, splits=replace(job.splits, calibration=noisier)),
        replace(job, settings=replace(job.settings, data=replace(few.data, noise="gaussian:20"))),
    ]
    report = job.splits.report
    pictured = replace(report, pairs=tuple(replace(pair, input=pair.input + np.float32(1e-3)) for pair in report.pairs))
    assert report.sha256 == pictured.sha256
    assert sweeping._key(job) != sweeping._key(replace(job, splits=replace(job.splits, report=pictured)))
    for key in (run_key.key_of, sweeping._key):
        assert {key(other) for other in others} == {key(job)}
        tuned = [replace(one, settings=replace(one.settings, recover="finetune")) for one in (job, *others)]
        assert len({key(job), *map(key, tuned)}) == 4


def test_a_training_is_kept_with_its_trials() -> None:
    tried = ((1e-3, 1.0, 28.1), (3e-3, 1.0, 28.3))
    history = ((0, 28.0), (3, 28.3), (100, 28.9))
    found = TrainResult(3e-3, 1.0, tried, 100, 7.5, 8, 64, "float32", "muon", 28.0, 28.9, 100, history, "steps")
    text = kept_runs._Training.model_validate(vars(found)).model_dump_json()
    assert TrainResult(**kept_runs._Training.model_validate_json(text).model_dump()) == found


def test_a_training_folder_is_known_by_its_images(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    job = pipeline.prepare(checkpoint, settings(images, None), SILENT)
    folders = [tmp_path / name for name in ("one", "the same", "another")]
    for folder in folders:
        folder.mkdir()
        for number in (100, 101):
            photograph(number + 2 * (folder.name == "another")).save(folder / f"{number}.png")

    def keys(source: Path | None) -> list[str | None]:
        chosen = replace(job.settings, recover="finetune", finetune=FinetuneOptions(steps=1, source=source))
        return [key(replace(job, settings=chosen, memo=Memo())) for key in (run_key.key_of, sweeping._key)]

    one, same, another = map(keys, folders)
    assert one == same
    assert None not in one
    assert len({*one, *another, *keys(None)}) == 6


def test_code_of_the_users_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_to_hash.py").write_text("def f(a, b):\n    return a\n")
    from mine_to_hash import f  # type: ignore[import-not-found]

    before = run_key._code_of([f])
    assert before is not None
    assert len(before) == 1
    (tmp_path / "mine_to_hash.py").write_text("def f(a, b):\n    return b\n")
    assert run_key._code_of([f]) != before
    assert run_key._code_of([torch.nn.ReLU(), choosing.find]) == []
    f.__module__ = "nowhere"
    assert run_key._code_of([f]) is None


def test_our_code_counts_behind_links(tmp_path: Path) -> None:
    for name in ("package", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("ONE = 1\n")
    (tmp_path / "package" / "part").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = run_key._code_in(tmp_path / "package")
    (tmp_path / "elsewhere" / "__init__.py").write_text("ONE = 2\n")
    assert run_key._code_in(tmp_path / "package") != before


@pytest.mark.parametrize(
    ("ended", "resume", "counts"), [("minutes", False, True), ("interrupt", False, False), ("evaluations", True, False)]
)
def test_what_the_clock_ended_counts_and_what_ctrl_c_ended_does_not(
    ended: Ended,
    resume: bool,
    counts: bool,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = pipeline.prepare(checkpoint, settings(images, tmp_path), SILENT)
    none = Selection(job.groups.space, ())
    refined = RefineResult(none, 30.0, 30.0, 0.0, 1.0, 1, 0, (), ended)
    found = pipeline.Choice(none, none, none, refinement=refined), Recovered(job.model, "none", False, (), "")
    keys = list[str | None]()
    monkeypatch.setattr(pipeline, "decided", lambda *_, **__: found)
    monkeypatch.setattr(pipeline, "finish", lambda *_, key: keys.append(key))
    pipeline.carry_out(job, tmp_path / "net.slim", resume=resume)
    assert [key is not None for key in keys] == [counts]


def weights(entry: Entry) -> Entry:
    state, record = entry
    return {name: tensor + 1 for name, tensor in state.items()}, record


def shapes(entry: Entry) -> Entry:
    state, record = entry
    smaller = {name: tensor[:1] if tensor.ndim else tensor for name, tensor in state.items()}
    return smaller, record | {"weights": kept_runs._digest(smaller)}


def units(entry: Entry) -> Entry:
    state, record = entry
    return state, record | {"kept": list(range(10**6))}


def fewer(entry: Entry) -> Entry:
    state, record = entry
    return state, record | {"search": record["search"] | {"pruned": [], "capacity": 0}}


def lies(entry: Entry) -> Entry:
    state, record = entry
    return state, record | {"search": record["search"] | {"capacity": 10**12}}


def other(entry: Entry) -> Entry:
    state, record = entry
    return state, record | {"key": "0" * 64}


@pytest.mark.slow
def test_what_cannot_be_kept_is_said(
    first: tuple[Path, pipeline.Result], checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    job = pipeline.prepare(checkpoint, settings(images, first[0]), SILENT)
    monkeypatch.setattr(job.watch, "say", said.append)
    key = choice_in(first[0]).stem
    kept = kept_runs.recall(first[0], key, job)
    assert kept is not None
    choice = pipeline.Choice(kept.search.selection, kept.kept, kept.kept, kept.align, kept.search, kept.refinement)
    (tmp_path / "file").touch()
    kept_runs.keep(tmp_path / "file", key, job, choice, kept.recovered)
    monkeypatch.setattr(keeping, "LARGEST_RECORD", 1000)
    kept_runs.keep(tmp_path / "cache", key, job, choice, kept.recovered)
    kept_runs.keep(tmp_path / "cache", key, job, replace(choice, align=0), kept.recovered)
    assert not (tmp_path / "cache").exists()
    whys = ("cannot write", "1,000 are read", "greater than or equal to 1")
    assert [why in line for why, line in zip(whys, said[-3:], strict=True)] == [True] * 3
    assert all(line.startswith("cache: not kept: ") for line in said[-3:])


@pytest.mark.slow
@pytest.mark.parametrize("change", [weights, shapes, units, fewer, lies, other])
def test_what_does_not_hold_is_a_miss(
    change: Callable[[Entry], Entry], first: tuple[Path, pipeline.Result], checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    path = choice_in(first[0])
    state, record = change(read(path))
    safetensors.torch.save_file(state, tmp_path / path.name, {RECORD: json.dumps(record)})
    job = pipeline.prepare(checkpoint, settings(images, first[0]), SILENT)
    assert kept_runs.recall(first[0], path.stem, job) is not None
    assert kept_runs.recall(tmp_path, path.stem, job) is None
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-100])
    assert kept_runs.recall(tmp_path, path.stem, job) is None
