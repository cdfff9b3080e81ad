"""Latency targets that are held against measurements: when a choice is made again, how tight, and that it stays what it was."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import NOWHERE, of_plain_costs

from qcompress import Settings, kept_rounds, latency, loading, pacing, pipeline, pricing, profiling, refining, run_key, tracing
from qcompress.asking import Price
from qcompress.errors import InterruptedRunError, UsageError
from qcompress.exporters import timing
from qcompress.latency import Latency, WallTimes
from qcompress.latency_model import LatencyModel
from qcompress.latency_table import DeviceFacts
from qcompress.progress import SILENT
from qcompress.refine import journal
from qcompress.refine.objective import SlicedMetric
from qcompress.rounds import MOST, Goal, Measured, Round, alike, consistent, doubtful, kept, next_allowed, steady
from qcompress.selection import Selection
from qcompress.settings import DataOptions, RefineOptions, SearchOptions, VerifyOptions
from qcompress.targets import AtMost, Speedup

SIDE = 32


def measured(speedup: float, dense_ms: float = 10.0, runs: int = 20) -> Measured:
    return Measured(speedup, (speedup * 0.98, speedup * 1.02), dense_ms, runs)


@pytest.mark.parametrize("target", [Speedup(2), AtMost(5)])
def test_only_a_whole_interval_misses_or_meets(target: Speedup | AtMost) -> None:
    """Of 10 ms both ask for twice the speed."""
    goal = Goal(target, 9 * 10**9)
    reached = [goal.reached(measured(speedup)) for speedup in (1.9, 1.97, 2.03, 2.1)]
    assert reached == ["missed", "undecided", "undecided", "met"]
    assert goal.reached(measured(1.0, runs=5)) == "undecided"  # which is no interval
    assert goal.interval(measured(1.6))[0] < goal.value(measured(1.6)) < goal.interval(measured(1.6))[1]


def made_of(allowed: int, predicted: int, *looks: Measured) -> Round:
    return Round(allowed, predicted, looks)


def test_the_next_choice_is_tighter_by_what_the_table_was_off() -> None:
    fast = Goal(Speedup(2), 8 * 10**9)
    made = made_of(fast.most_ps, 3_900_000_000, measured(1.8))
    assert fast.correction(made) == pytest.approx((8 / 3.9) / 1.8)
    assert next_allowed(fast, [made]) == pytest.approx(4e9 * 1.8 * 3.9 / 8, abs=1)
    short = Goal(AtMost(5), 8 * 10**9)  # the dense network took 10 ms, not 8
    made = made_of(short.most_ps, 4_800_000_000, measured(1.6))
    assert short.correction(made) == pytest.approx((10 / 1.6) / 4.8)
    assert next_allowed(short, [made]) == pytest.approx(5e9 * 4.8 / 6.25, abs=1)


def test_a_slow_minute_prunes_nothing_further() -> None:
    """0.3 ms of 0.6; the second choice is timed while the machine takes 0.84 ms for the dense network, and is twice as fast."""
    goal = Goal(AtMost(0.3), 600_000_000)
    first = made_of(goal.most_ps, 299_000_000, measured(1.90, dense_ms=0.6))
    allowed = next_allowed(goal, [first])
    assert allowed is not None
    assert allowed == pytest.approx(3e8 * 0.299 / (0.6 / 1.9), rel=1e-6)
    second = made_of(allowed, allowed - 1, measured(2.05, dense_ms=0.84))
    assert goal.value(second.measured) == pytest.approx(0.41, abs=1e-3)  # by its own dense time missed by a third
    assert goal.correction(second) > 1.4
    held = steady([first, second])[1]
    assert goal.value(held.measured) == pytest.approx(0.72 / 2.05)
    assert doubtful(goal, [first, second])
    again = replace(second, looks=(*second.looks, measured(2.05, dense_ms=0.6)))
    assert goal.reached(steady([first, again])[1].measured) != "missed"
    assert next_allowed(goal, [first, again]) is None
    assert kept(goal, [first, again]) == again


def test_what_is_kept_is_told_by_one_dense_time(tmp_path: Path) -> None:
    """Of 10 ms the first choice missed 5 ms; of 9 ms, the median after the second, it does not, and has more left."""
    goal, key = Goal(AtMost(5), 10 * 10**9), "0" * 64
    first = made_of(goal.most_ps, 4_900_000_000, measured(1.8, dense_ms=10.0))
    allowed = next_allowed(goal, [first])
    assert allowed is not None
    second = made_of(allowed, allowed, measured(1.85, dense_ms=8.0))
    assert next_allowed(goal, [first, second]) is None
    assert [look.dense_ms for made in alike([first, second]) for look in made.looks] == [9.0, 9.0]
    assert kept(goal, [first, second]) == first
    kept_rounds.keep(tmp_path / "r", key, (first, second))
    assert kept_rounds.recall(tmp_path / "r", key, goal) == (first, second)


def test_one_look_that_contradicts_the_table_is_looked_at_again_and_both_count() -> None:
    goal = Goal(Speedup(2), 8 * 10**9)
    wild, sane = measured(1.2), measured(2.02)
    first = made_of(goal.most_ps, goal.most_ps - 1, wild)
    assert doubtful(goal, [first])
    assert not doubtful(goal, [replace(first, looks=(measured(1.9),))])
    both = replace(first, looks=(wild, sane))
    assert not doubtful(goal, [both])
    assert goal.reached(both.measured) == "undecided"
    assert next_allowed(goal, [both]) is None
    assert next_allowed(goal, [replace(first, looks=(wild, wild))]) == pytest.approx(4e9 * 0.6, rel=1e-6)


def test_after_an_overshoot_a_looser_choice_is_made_and_the_loosest_that_does_is_kept() -> None:
    goal = Goal(Speedup(2), 8 * 10**9)
    first = made_of(goal.most_ps, goal.most_ps, measured(1.8))
    second = made_of(next_allowed(goal, [first]) or 0, 3_500_000_000, measured(2.4))
    third = next_allowed(goal, [first, second])
    assert third is not None
    assert second.allowed_ps < third < first.predicted_ps
    good, bad = (made_of(third, third, measured(speedup)) for speedup in (2.05, 1.8))
    assert kept(goal, [first, second, good]) == good
    assert kept(goal, [first, second, bad]) == second
    assert kept(goal, [first, replace(second, looks=bad.looks)]).allowed_ps == second.allowed_ps  # all missed: the tightest
    assert next_allowed(goal, [made_of(goal.most_ps, 3_500_000_000, measured(8 / 3.5))]) is None  # widths come in blocks


def test_rounds_that_no_run_could_have_left_are_not_believed(tmp_path: Path) -> None:
    goal, key = Goal(Speedup(2), 8_000), "0" * 64
    first = made_of(4_000, 3_900, measured(1.8))
    second = made_of(next_allowed(goal, [first]) or 0, 3_000, measured(2.1))
    kept_rounds.keep(tmp_path / "r", key, (first, second))
    assert kept_rounds.recall(tmp_path / "r", key, goal) == (first, second)
    assert kept_rounds.recall(tmp_path / "r", "1" * 64, goal) is None
    assert kept_rounds.recall(tmp_path / "r", key, Goal(Speedup(2.5), 8_000)) is None
    for rounds in (
        (first, replace(second, allowed_ps=1)),
        (replace(first, looks=(measured(2.1),)), second),
        (replace(first, looks=(measured(1.8), measured(1.8))), second),
        (replace(first, looks=(measured(1.2),)), replace(second, allowed_ps=2_340)),
        (replace(first, predicted_ps=4_001), second),
        (second,),
        (),
    ):
        assert not consistent(goal, rounds)
    (tmp_path / "r").write_text((tmp_path / "r").read_text().replace("1.8", "NaN"))
    assert kept_rounds.recall(tmp_path / "r", key, goal) is None


def test_no_numbers_in_a_file_of_rounds_end_in_an_arithmetic_error(tmp_path: Path) -> None:
    goal, key, path = Goal(AtMost(5), 8 * 10**9), "0" * 64, tmp_path / "r"
    wild = made_of(goal.most_ps, goal.most_ps, *[measured(9e11, dense_ms=1e-9)] * 2)
    kept_rounds.keep(path, key, (wild, replace(wild, allowed_ps=1, predicted_ps=1)))
    assert kept_rounds.recall(path, key, goal) is None
    path.write_text(path.read_text().replace('"dense_ms":1e-9', '"dense_ms":1e-300'))
    assert "1e-300" in path.read_text()
    assert kept_rounds.recall(path, key, goal) is None


@pytest.fixture(scope="module")
def here(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the network that calls itself this machine's."""
    loaded = loading.load(checkpoint)
    groups = tracing.trace(loaded.model, torch.zeros(1, 3, SIDE, SIDE))
    path = tmp_path_factory.mktemp("table") / "here.json"
    table = of_plain_costs(profiling.plan(loaded, groups, block=4), groups, DeviceFacts(**timing.device()))
    profiling.write_table(table, path)
    return path


def settings(images: Path, table: Path) -> Settings:
    return Settings(
        budget="latency",
        target=Speedup(1.5),
        data=DataOptions(images, "gaussian:25", calibration_crops=4, selection_crops=4, crop=32),
        search=SearchOptions(align=1, latency_table=table),
        refine=RefineOptions(evaluations=8),
        verify=VerifyOptions(size=SIDE),
        crops=False,
    )


@pytest.fixture(scope="module")
def job(checkpoint: Path, images: Path, here: Path) -> pipeline.Job:
    wanted = settings(images, here)
    return pipeline.prepare(checkpoint, wanted, SILENT, price=partial(pricing.priced, wanted))


def latency_of(found: Measured) -> Latency:
    wall, slim_ms = WallTimes(1.0, 1.0, 1.0), found.dense_ms / found.speedup
    return Latency(
        found.dense_ms,
        slim_ms,
        found.speedup,
        found.ci95,
        found.runs,
        1,
        "thread",
        wall,
        wall,
        (1, 1),
        "faster",
        (1, 3, 32, 32),
    )


def played(job: pipeline.Job, folder: Path, *speedups: float, resume: bool = False) -> tuple[pipeline.Job, int]:
    """The job after rounds that measure these speedups, and how many were measured."""
    left = list(speedups)

    def choose(at: pipeline.Job) -> Selection:
        assert at.settings.refine.most == 0
        return pipeline.choose(at).selected

    found = pacing.paced(job, choose, lambda *_: latency_of(measured(left.pop(0))), folder, resume=resume)
    return found, len(speedups) - len(left)


def capacity(job: pipeline.Job) -> int:
    return job.asked[0].target


def test_the_loop_is_bounded_and_leaves_alone_what_is_not_missed(job: pipeline.Job, tmp_path: Path) -> None:
    same, rounds = played(job, tmp_path, 1.5, 9.0)
    assert (rounds, capacity(same)) == (1, capacity(job))
    looser, rounds = played(job, tmp_path, 1.9, 1.9, 1.52)  # overshot, by so much that it is timed twice
    assert (rounds, capacity(looser) < capacity(job)) == (3, True)
    tighter, rounds = played(job, tmp_path, 1.4, 1.52, 1.0)
    assert (rounds, capacity(tighter) > capacity(job)) == (2, True)
    last, rounds = played(job, tmp_path, *[1.45] * (MOST + 1))
    assert (rounds, last.paced is not None and last.paced.ended) == (MOST, None)
    assert last.paced is not None
    assert [made.allowed_ps for made in last.paced.rounds] == sorted({m.allowed_ps for m in last.paced.rounds}, reverse=True)
    unreachable, rounds = played(job, tmp_path, 0.01, 0.01, 9.0)
    assert (rounds, capacity(unreachable)) == (2, capacity(job))
    assert unreachable.paced is not None
    assert "with the least that every group keeps" in (unreachable.paced.ended or "")


def test_what_was_timed_before_counts_where_a_run_goes_on_or_is_cached(job: pipeline.Job, tmp_path: Path) -> None:
    """Although the clock says something else by then; with another seed it is another run."""
    cached = replace(job, settings=replace(job.settings, cache=tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    first, rounds = played(cached, tmp_path / "a", 1.4, 1.52)
    assert rounds == 2
    for at, folder, resume in ((job, "a", True), (cached, "b", False)):
        again, rounds = played(at, tmp_path / folder, 9.0, resume=resume)
        assert (rounds, again.paced, capacity(again)) == (0, first.paced, capacity(first))
    longer = replace(job, settings=replace(job.settings, refine=RefineOptions(99)))
    assert played(longer, tmp_path / "a", 9.0, resume=True)[1] == 0
    assert played(replace(job, settings=replace(job.settings, seed=1)), tmp_path / "a", 1.5, resume=True)[1] == 1
    assert played(job, tmp_path / "b", 1.5)[1] == 1  # neither resumed nor cached
    (tmp_path / "file").touch()
    assert played(replace(job, settings=replace(job.settings, cache=tmp_path / "file")), tmp_path / "c", 1.5)[1] == 1


def test_rounds_stay_only_where_a_run_can_go_on(tmp_path: Path) -> None:
    rounds = tmp_path / kept_rounds.FILE
    for error in (KeyboardInterrupt(), UsageError("no"), ZeroDivisionError()):
        rounds.touch()
        with pytest.raises(type(error)), refining.resumable(tmp_path):
            raise error
        assert not rounds.exists()
    rounds.touch()
    (tmp_path / journal.FILE).touch()
    with pytest.raises(InterruptedRunError, match="no result"), refining.resumable(tmp_path):
        raise KeyboardInterrupt
    assert rounds.exists()


def test_a_table_is_known_by_its_times_and_one_that_is_not_given_by_nothing(job: pipeline.Job, tmp_path: Path) -> None:
    elsewhere = replace(job.settings.search, latency_table=tmp_path / "copied.json")
    key = run_key.key_of(job)
    assert key is not None
    assert run_key.key_of(replace(job, settings=replace(job.settings, search=elsewhere))) == key
    model = job.prices["latency"].cost
    assert isinstance(model, LatencyModel)
    times = tuple(time and time * 1.001 for time in model.table.times_ns)
    other = LatencyModel(model.table.model_copy(update={"times_ns": times}), job.groups)
    assert run_key.key_of(replace(job, prices={"latency": Price(other, 4, other.additive)})) != key
    said = list[str]()
    given = replace(job.settings, cache=tmp_path)
    assert pricing.cacheable(given, said.append) == given
    assert not said
    measures = replace(given, search=replace(given.search, latency_table=None))
    assert pricing.cacheable(measures, said.append).cache is None
    assert "--latency-table" in said[0]


def test_a_table_of_another_machine_is_taken_at_its_word(job: pipeline.Job, tmp_path: Path) -> None:
    model = job.prices["latency"].cost
    assert isinstance(model, LatencyModel)
    for change, said in (({"device": NOWHERE}, "another machine (none)"), ({"threads": 2}, "for 2 threads")):
        other = LatencyModel(model.table.model_copy(update=change), job.groups)
        found, rounds = played(replace(job, prices={"latency": Price(other, 4, other.additive)}), tmp_path, 1.0)
        assert (rounds, capacity(found), list(tmp_path.iterdir())) == (0, capacity(job), [])
        assert found.paced is not None
        assert said in (found.paced.skipped or "")


@pytest.mark.slow
def test_a_run_that_missed_is_chosen_again_before_it_is_refined_and_says_so(
    checkpoint: Path, images: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in its refinement, and resumed by another clock."""
    left = [1.4, 1.52]
    monkeypatch.setattr(latency, "compare", lambda *_, **__: latency_of(measured(left.pop(0))))
    measure, calls = SlicedMetric.__call__, iter(range(1000))

    def interrupted(self: SlicedMetric, *given: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, *given)

    monkeypatch.setattr(SlicedMetric, "__call__", interrupted)
    wanted, out = replace(settings(images, here), recover="none"), tmp_path / "o"
    left.append(1.4)
    result = pipeline.prune(checkpoint, wanted, out=out)
    before, kept = result.report, (out / kept_rounds.FILE).exists()
    assert (left, result.exit_code, kept) == ([], pipeline.INTERRUPTED, True)
    left += [1.4, 9.0]
    result = pipeline.prune(checkpoint, wanted, out=out, resume=True)
    assert (left, result.exit_code) == ([9.0], 0)

    target, latencies = result.report.target, result.report.latency
    assert target is not None
    assert before.target is not None
    assert latencies is not None
    assert latencies.predicted is not None
    assert target.rounds == before.target.rounds
    first, second = target.rounds
    assert (first.reached, second.reached, target.reached) == ("missed", "undecided", "missed")
    assert first.allowed == pytest.approx(1.5)
    assert second.allowed == pytest.approx(1.5 * (first.correction or 0), rel=1e-4)
    assert (second.predicted or 0) >= (second.allowed or math.inf)
    assert (latencies.predicted.dense_ms or 0) / (latencies.predicted.slim_ms or 1) >= (second.allowed or 0) * (1 - 1e-6)
    said = [note for note in result.report.notes if note.startswith("the target")]
    assert said == ["the target is missed: asked 1.5 times as fast, measured 1.40 (1.37 to 1.43) after 2 choices"]
    assert "measured of the ONNX file: 1.40 (1.37 to 1.43): **missed**" in (out / "report.md").read_text()
    assert "<strong>missed</strong>" in (out / "report.html").read_text()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
