"""Sweeps: the front and its knee, what each rule picks, and that points are made once, kept, and fail alone."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress import Settings, choosing, findings, latency, pipeline, reconstruction
from qcompress.cli.main import main
from qcompress.cli.option_table import options_of
from qcompress.cli.prune import prune
from qcompress.cli.sweep import sweep as command
from qcompress.errors import OutputError, UsageError, WorkerError
from qcompress.plots.front import Dot, front
from qcompress.progress import SILENT
from qcompress.reports import CheckpointFacts, Report
from qcompress.settings import DataOptions, RefineOptions, SearchOptions, VerifyOptions
from qcompress.sweeping import folder as files
from qcompress.sweeping import making, run
from qcompress.sweeping.facts import DenseFacts, PointFacts, SweepFacts, ranked
from qcompress.sweeping.front import Place, knee, on_front
from qcompress.sweeping.making import Broken, Finished
from qcompress.sweeping.rules import parse_rule, picked
from qcompress.sweeping.shares import parse_shares
from qcompress.sweeping.table import rows, to_markdown
from qcompress.workers.contract import Done, Failed, Lost, Point

NUMBER = st.floats(-10, 10).map(lambda value: round(value, 1))
FAST = ["--noise", "gaussian:25", "--size", "32", "--align", "1", "--no-crops", "--quiet", "--refine-evals", "4"]
AT = ["--at", "0.25,0.5,0.95"]  # of 40 units in 5 groups 35 can go: the last cannot be met


@given(st.lists(st.builds(Place, NUMBER, NUMBER), max_size=8))
def test_a_place_is_on_the_front_unless_another_dominates_it(places: list[Place]) -> None:
    for place, best in zip(places, on_front(places), strict=True):
        better = [other for other in places if other.cost <= place.cost and other.drop <= place.drop and other != place]
        assert best == (not better)


@settings(deadline=None)  # a time is nothing to fail by
@given(st.integers(1, 30), st.floats(0.1, 100), st.floats(0.1, 100))
def test_the_knee_of_a_curve_with_a_corner_is_the_corner(corner: int, cost: float, drop: float) -> None:
    """Whatever the units: flat up to it, steep behind it."""
    curve = [
        Place(cost * (1 - step / 40), drop * (0.01 * step if step <= corner else step - 0.99 * corner)) for step in range(36)
    ]
    assert knee(curve) == corner
    assert knee([Place(place.cost, -(place.cost**2)) for place in curve]) is None  # a front that bends the other way has none


@pytest.mark.parametrize(
    ("at", "points", "message"),
    [
        ("0.2,x", None, "expected shares"),
        ("0.2,1", None, "1 is no share"),
        ("nan", None, "nan is no share"),
        ("0.2,0.20001", None, "twice"),
        ("0.5:0.2", None, "that grows"),
        ("0.2", 3, "--points is given"),
        (None, 1, "expected 2 to 50"),
    ],
)
def test_shares_that_make_no_sense(at: str | None, points: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shares(at, points)


def point(share: float, macs: int, judged: float, drop: float, **others: Any) -> PointFacts:
    known: dict[str, Any] = {
        "status": "ok",
        "folder": f"net-{share:g}.slim",
        "margin": 0.05,
        "bytes": 10 * macs,
        "metric": 30 - drop,
    }
    return PointFacts(share=share, macs=macs, judged=judged, drop=drop, **(known | others))


def facts(*points: PointFacts) -> SweepFacts:
    return ranked(
        SweepFacts(
            schema=1,
            status="ok",
            checkpoint=CheckpointFacts(file="n|et.pt", sha256="0" * 64, architecture="dncnn"),
            budget="filters",
            against="macs",
            metric="psnr",
            unit="dB",
            drop_unit="dB",
            higher_is_better=True,
            crops=32,
            dense=DenseFacts(params=100, macs=1000, bytes=10_000, metric=30.0),
            points=points,
            seed=0,
            versions={},
        )
    )


THREE = facts(
    point(0.2, 900, judged=0.1, drop=0.6, speedup=1.4, ci95=(1.3, 1.5), rounds=20),
    point(0.5, 500, judged=0.2, drop=0.5, speedup=2.1, ci95=(1.9, 2.3), rounds=20),
    point(0.7, 300, judged=0.9, drop=0.7, speedup=3.0, ci95=(2.8, 3.2), rounds=20),
)


@pytest.mark.parametrize(
    ("rule", "share"),
    [
        ("knee", 0.5),
        ("drop:0.16", 0.2),
        ("drop:0.24 dB", 0.2),  # 0.2 and its margin are more
        ("drop:0.25", 0.5),
        ("drop:0.1", None),
        ("speedup:1.3", 0.2),
        ("speedup:2", 0.7),  # the interval of 0.5 contains it
        ("speedup:9", None),
        ("size:5kB", 0.5),
        ("size:1kB", None),
    ],
)
def test_rules_look_at_the_selection_crops_only(rule: str, share: float | None) -> None:
    found = picked(parse_rule(rule), THREE)
    assert (found.share if found else None) == share
    seen = facts(*(one.model_copy(update={"drop": 9 * one.share, "metric": -one.share}) for one in THREE.points))
    other = picked(parse_rule(rule), seen)
    assert (other.share if other else None) == share


def test_failed_points_and_doubtful_speedups_are_never_picked() -> None:
    odd = facts(
        point(0.5, 500, 0.1, 0.1, speedup=9.0, ci95=(8.0, 10.0), rounds=3),
        point(0.6, 400, 0.0, 0.0, status="interrupted"),
        PointFacts(share=0.9, status="failed", reason="no"),
        point(0.7, 300, 0.1, 0.1, margin=math.inf),
    )
    assert picked(parse_rule("speedup:2"), odd) is None
    chosen = picked(parse_rule("drop:1"), odd)
    assert chosen is not None
    assert chosen.share == 0.5
    assert [row[-1] for row in rows(odd)] == ["", "dominated", "interrupted", "failed", "front"]


@pytest.mark.parametrize("text", ["knee:1", "drop", "drop:x", "speedup:-1", "size:", "best", "drop:0.1km"])
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rule(text)


def test_the_front_is_of_the_report_images_and_the_table_says_so() -> None:
    assert [one.on_front for one in THREE.points] == [False, True, True]
    by_time = ranked(THREE.model_copy(update={"against": "latency"}))
    assert [one.cost("latency") for one in by_time.points] == [1 / 1.4, 1 / 2.1, 1 / 3]
    text = to_markdown(THREE, picture=True)
    assert "# n\\|et.pt" in text
    assert "](sweep.svg)" in text
    assert "| 50 % |" in text
    assert "2.10 (1.90-2.30) | front |" in text


def test_the_picture_has_every_point_and_a_line_through_the_front() -> None:
    dots = [Dot(900, 29.4, "20 %", False), Dot(500, 29.5, "50 %", True, picked=True), Dot(300, math.nan, "70 %", True)]
    (ax,) = front(dots, Dot(1000, 30, "dense", True), "MACs", "PSNR").axes
    drawn = [tuple(float(x) for x in np.asarray(line.get_xdata())) for line in ax.lines]
    assert (500.0, 1000.0) in drawn
    assert (500.0, 900.0) in drawn
    assert [text.get_text() for text in ax.texts] == ["50 %", "20 %"]


def test_the_command_takes_what_prune_does_but_for_targets_and_limits() -> None:
    ours, theirs = ({option.key for option in options_of(one)} for one in (command, prune))
    assert ours - theirs == {"at", "points", "pick", "against"}
    without = {"sparsity", "smallest", "speedup", "selection", "max-drop", "min-speedup", "max-size", "undecided"}
    assert theirs - ours == without | {f"target-{budget}" for budget in ("params", "macs", "size", "latency")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--at", "2"], "no share"), (["--pick", "best"], "not a rule"), (["--backend", "qpu"], "qpu")],
)
def test_command_lines_that_make_no_sense(
    arguments: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(checkpoint), "-o", str(tmp_path / "o"), "-q", *arguments]) in (2, 5)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module", autouse=True)
def _hasty() -> Iterator[None]:
    """How long is measured is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        compare = latency.compare
        patch.setattr(latency, "compare", lambda *given, **options: compare(*given, **{**options, "max_seconds": 0.2}))
        yield


@pytest.fixture(scope="module")
def swept(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], int]:
    """The folder of a sweep, what was eliminated on the way, and the exit code."""
    folder, computed = tmp_path_factory.mktemp("swept") / "net.sweep", []
    with pytest.MonkeyPatch.context() as patch:
        real = reconstruction.eliminated

        def eliminated(*given: Any, **named: Any) -> Any:
            computed.append(given)
            return real(*given, **named)

        patch.setattr(reconstruction, "eliminated", eliminated)
        arguments = ["sweep", str(checkpoint), *AT, "--data", str(images), *FAST, "--pick", "size:1MB", "-o", str(folder)]
        code = main([*arguments, "--plots", "--workers", "1"])
    return folder, computed, code


@pytest.mark.slow
def test_a_sweep_computes_once_what_points_share_and_reports_what_failed(swept: tuple[Path, list[Any], int]) -> None:
    folder, computed, code = swept
    found = json.loads((folder / "sweep.json").read_text())
    assert len(computed) == 1
    assert (code, found["status"]) == (1, "failed")
    assert [one["status"] for one in found["points"]] == ["ok", "ok", "failed"]
    assert [one["pruned"] for one in found["points"]] == [10, 20, None]
    for one in found["points"][:2]:
        report = json.loads((folder / one["folder"] / "report.json").read_text())
        assert one["drop"] == pytest.approx(report["metric"]["dense"] - report["metric"]["artifact"], abs=1e-4)
        assert one["macs"] == report["cost"]["macs"]["slim"]
        assert report["cost"]["bytes"]["dense"] == found["dense"]["bytes"]
        assert report["latency"]["runs"] == one["rounds"]
        assert f"--sparsity {one['share']}" in report["command"]
    assert "failed:" in (folder / "sweep.md").read_text()
    assert (folder / "sweep.svg").read_text().startswith("<?xml")
    best = min(found["points"][:2], key=lambda one: one["judged"])
    assert found["pick"]["share"] == best["share"]
    copied, original = (json.loads((folder / name / "plan.json").read_text()) for name in ("picked.slim", best["folder"]))
    assert copied == original
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_finished_points_are_kept_and_one_that_is_damaged_or_interrupted_is_made_again(
    swept: tuple[Path, list[Any], int],
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, made = tmp_path / "net.sweep", []
    shutil.copytree(swept[0], folder)
    with (folder / "net-0.5.slim" / "model.onnx").open("ab") as file:
        file.write(b"\0")

    def interrupt(job: Any, place: Path, *_: Any, **__: Any) -> None:
        made.append(place.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "make", interrupt)
    arguments = [
        "sweep",
        str(checkpoint),
        "--at",
        "0.25,0.5",
        "--data",
        str(images),
        *FAST,
        "--workers",
        "1",
        "-o",
        str(folder),
    ]
    assert main(arguments) == 130
    assert made == ["net-0.5.slim"]
    assert "1 of 2 points" in capsys.readouterr().err
    found = json.loads((folder / "sweep.json").read_text())
    assert (found["status"], [one["share"] for one in found["points"]]) == ("interrupted", [0.25])
    assert (folder / "picked.slim").exists()  # until another is picked
    assert not (folder / "sweep.svg").exists()

    assert main([*arguments[:3], "0.25", *arguments[4:], "--pick", "speedup:1000", "--json"]) == 4  # with nothing left to make
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["pick"]["share"], found["dense"]["macs"] > 0) == ("pick-missed", None, True)
    assert main([*arguments, "--seed", "1"]) == 130  # another run, to which nothing belongs
    assert made[1:] == ["net-0.25.slim"]


@pytest.mark.slow
def test_points_of_workers_are_those_made_in_turn_to_the_last_bit(
    swept: tuple[Path, list[Any], int], checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    """The last cannot be met, which no worker is asked for."""
    out = tmp_path / "net.sweep"
    assert main(["sweep", str(checkpoint), *AT, "--data", str(images), *FAST, "--workers", "2", "-o", str(out)]) == 1
    one, two = (json.loads((folder / "sweep.json").read_text()) for folder in (swept[0], out))
    timed = {"speedup", "ci95", "rounds", "report"}
    for first, second in zip(one["points"], two["points"], strict=True):
        assert {name: first[name] for name in first.keys() - timed} == {name: second[name] for name in second.keys() - timed}
        for name in () if first["folder"] is None else ("plan.json", "model.onnx", "model.safetensors"):
            assert (swept[0] / first["folder"] / name).read_bytes() == (out / first["folder"] / name).read_bytes(), name
    assert [point["status"] for point in two["points"]] == ["ok", "ok", "failed"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_what_an_equal_point_left_in_the_cache_is_neither_chosen_nor_exported_again(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker makes points; a run of `prune` is one more equal point."""
    settings = Settings(
        data=DataOptions(images, "gaussian:25"),
        search=SearchOptions(align=1),
        refine=RefineOptions(0),
        verify=VerifyOptions(size=32),
        workers=1,
        crops=False,
        cache=tmp_path / "cache",
    )
    job, folders = pipeline.prepare(checkpoint, settings, SILENT), [tmp_path / f"{number}.slim" for number in range(3)]

    def point(folder: Path) -> Report:
        bench = making.Points(job, {0.5: (folder, tmp_path / "aside")}, resume=False).bench("cpu")
        finished = pickle.loads(bench.do(Point(0.5)))
        return pipeline.complete(job, finished.made, folder).report

    job.memo.dense = pipeline.dense_file(job, tmp_path)
    assert point(folders[0]).cached == ()
    monkeypatch.setattr(findings, "made", None)
    monkeypatch.setattr(choosing, "find", None)
    equal = point(folders[1]), pipeline.prune(checkpoint, settings, out=folders[2]).report
    assert {report.cached for report in equal} == {("search", "refine", "recover", "metric", "parity")}
    assert len({(folder / "model.onnx").read_bytes() for folder in folders}) == 1


def test_ctrl_c_while_workers_make_points_keeps_those_that_are_made(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are timed then; a point whose worker was lost is in the table with the reason."""
    timed: list[Any] = []

    def complete(job: Any, made: Any, folder: Path) -> None:
        timed.append((job.settings.sparsity, made, job.watch.seconds, folder.name))

    def point_of(self: Any, share: float, *_: Any) -> PointFacts:
        return PointFacts(share=share, status="ok")

    answers: list[Any] = []

    def made_apart(*_: Any, **__: Any) -> Iterator[Any]:
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    for name, stub in (("complete", complete), ("made_apart", made_apart)):
        monkeypatch.setattr(run, name, stub)
    for name, method in (("_once", lambda *_: None), ("_point", point_of), ("_share_out", lambda _: None)):
        monkeypatch.setattr(run._Course, name, method)
    made: Any = object()
    half, lost = (0.5, Finished(made, {"repair": 1.0})), (0.3, Broken("its worker was lost"))
    given = ["sweep", str(checkpoint), "--at", "0.25,0.3,0.5", "--data", str(images), *FAST, "-o", str(tmp_path / "o")]

    answers[:] = [half, lost, KeyboardInterrupt()]
    assert main([*given, "--workers", "2"]) == 130
    assert "1 of 3 points are finished" in capsys.readouterr().err
    assert timed == [(0.5, made, {"repair": 1.0}, "net-0.5.slim")]
    found = json.loads((tmp_path / "o" / "sweep.json").read_text())
    assert found["status"] == "interrupted"
    assert [(one["share"], one["status"]) for one in found["points"]] == [(0.3, "failed"), (0.5, "ok")]

    answers[:] = [half, lost, WorkerError("no worker is left", "memory?")]
    assert main([*given, "--workers", "2"]) == 1
    found = json.loads((tmp_path / "o" / "sweep.json").read_text())
    assert [one["reason"] for one in found["points"]] == ["no worker is left; memory?", "its worker was lost", None]
    assert not [path for path in (tmp_path / "o").iterdir() if path.name.startswith(".")]


def test_other_shares_join_the_equal_points_of_the_folder(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a rule that no point meets leaves what was picked earlier."""
    out, made = tmp_path / "o", []
    for name in ("net-0.5.slim", "net-0.7.slim", "net-x.slim", "picked.slim"):
        (out / name).mkdir(parents=True)
    known = {f"net-{one:g}.slim": PointFacts(share=one, status="ok", key=key) for one, key in ((0.5, "k"), (0.7, "other"))}
    monkeypatch.setattr(files, "kept", lambda place: known.get(place.name))
    monkeypatch.setattr(run, "_key", lambda _: "k")
    monkeypatch.setattr(run, "read_report", lambda _: None)
    monkeypatch.setattr(run._Course, "_take_dense", lambda *_: None)

    def finish(_: Any, job: Any, *given: Any) -> PointFacts:
        made.append((job.settings.sparsity, *given[:2]))
        return PointFacts(share=job.settings.sparsity, status="ok")

    monkeypatch.setattr(run._Course, "_finish", finish)
    arguments = ["sweep", str(checkpoint), "--at", "0.3", "--data", str(images), *FAST, "-o", str(out)]
    arguments.remove("--quiet")
    assert main([*arguments, "--pick", "speedup:1000"]) == 4
    assert made == [(0.3, 1, 2)]
    assert "what an earlier sweep picked: it stays" in " ".join(capsys.readouterr().err.split())
    assert [one["share"] for one in json.loads((out / "sweep.json").read_text())["points"]] == [0.3, 0.5]
    assert (out / "picked.slim").is_dir()


def test_a_rule_has_the_unit_of_the_metric(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", str(checkpoint), "--data", str(images), *FAST, "-o", str(tmp_path / "o")]
    assert main([*arguments, "--pick", "drop:1pt"]) == 2
    assert "--pick drop:1pt is given in points, but drops of psnr are in dB" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_what_a_worker_answers_is_a_point_or_why_there_is_none() -> None:
    assert making._found(Failed(MemoryError("no\nroom"))) == Broken("its worker failed: MemoryError: no room")
    assert making._found(Lost("killed")) == Broken("killed")
    with pytest.raises(OutputError):
        making._found(Failed(OutputError("the disk is full")))
    broken = Broken("no", ("a line",))
    assert making._found(Done(pickle.dumps(broken))) == broken


def test_what_cannot_be_sent_to_workers_is_refused(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    settings = Settings(data=DataOptions(images, "gaussian:25"), verify=VerifyOptions(size=32), workers=2)
    job = pipeline.prepare(checkpoint, settings, SILENT)
    own = replace(job, metric=replace(job.metric, per_image=lambda output, _: output))
    with pytest.raises(UsageError, match="cannot be sent to workers") as caught:
        next(iter(making.made_apart(own, {0.5: (tmp_path, tmp_path)}, 2, resume=False)))
    assert "the metric's, at the top of a module" in (caught.value.hint or "")
