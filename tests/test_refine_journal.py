"""A refinement that was interrupted, killed or stopped by the clock goes on to the result of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_refine_loop import FAST, Quadratic, everyone, start_of

from qcompress.errors import OutputError, ResumeError
from qcompress.refine.contract import RefineResult
from qcompress.refine.journal import FILE, forget, kept
from qcompress.refine.loop import refine
from qcompress.selection import Selection, UnitSpace

WIDE = UnitSpace.of([("a", 40), ("b", 40)])
FACTS = {"seed": "3", "start": "abc"}


def run(
    folder: Path,
    metric: Quadratic,
    name: str = "hill-climbing",
    *,
    evaluations: int | None = 60,
    minutes: float | None = None,
    batch: int = 3,
) -> RefineResult:
    with kept(metric, folder, FACTS) as journal:
        return refine(
            journal, start_of(metric.space), evaluations=evaluations, minutes=minutes, seed=3, surrogate=metric.energy,
            proposer=FAST[name], batch=batch, clock=journal.clock,
        )  # fmt: skip


@everyone
@pytest.mark.parametrize("after", [1, 7, 30])
def test_interrupted_twice_and_resumed_is_uninterrupted(name: str, after: int, tmp_path: Path) -> None:
    whole = Quadratic()
    expected = run(tmp_path / "whole", whole, name)
    parts: list[Quadratic] = []
    for limit in (after, after + 11, None):
        parts.append(Quadratic(interrupt_after=limit if not parts else 11 if limit else None))
        result = run(tmp_path / "parts", parts[-1], name)
        assert result.interrupted == (limit is not None) or len(whole.asked) <= after + 11
    assert result == expected
    assert [call for part in parts for call in part.asked] == whole.asked  # nothing was measured again, nothing left out


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_more_evaluations_go_on_to_the_result_of_a_longer_run(batch: int, tmp_path: Path) -> None:
    run(tmp_path / "a", Quadratic(WIDE), evaluations=40, batch=batch)
    went_on = run(tmp_path / "a", Quadratic(WIDE), evaluations=90, batch=batch)
    whole = run(tmp_path / "b", Quadratic(WIDE), evaluations=90, batch=batch)
    assert replace(went_on, steps=(), measured=()) == replace(whole, steps=(), measured=())
    # energies are summed in batches, whose last one differs: equal but for rounding
    np.testing.assert_allclose(went_on.steps, whole.steps, atol=1e-9)
    np.testing.assert_allclose(went_on.measured, whole.measured, atol=1e-9)


def test_the_clock_stops_and_starts_anew_when_the_disk_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0.0, 1e6).tolist())  # each look at the clock takes a second
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    parts = [Quadratic(WIDE) for _ in range(3)]
    results = [run(tmp_path, part, evaluations=None, minutes=0.5) for part in parts]
    assert [result.ended for result in results] == ["minutes"] * 3
    assert all(len(part.asked) >= 20 for part in parts)
    assert [result.evaluations for result in results] == sorted({result.evaluations for result in results})
    longer = Quadratic(WIDE)
    run(tmp_path / "whole", longer, evaluations=int(results[-1].evaluations) + 10)
    asked = [call for part in parts for call in part.asked]
    assert asked == longer.asked[: len(asked)]


def test_a_torn_last_line_is_measured_again(tmp_path: Path) -> None:
    expected = run(tmp_path / "whole", Quadratic())
    data = (tmp_path / "whole" / FILE).read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    for number, cut in enumerate((10, ends[0] - 1, ends[0], ends[0] + 30, ends[12] - 1, ends[12], len(data) - 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / FILE).write_bytes(data[:cut])
        rest = Quadratic()
        assert run(folder, rest) == expected
        assert (folder / FILE).read_bytes() == data
        assert rest.asked


@pytest.mark.parametrize("place", [3, 0.1, 0.5, 0.9])
def test_a_damaged_file_is_refused_and_stays(place: float, tmp_path: Path) -> None:
    run(tmp_path, Quadratic())
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    data[int(place if place > 1 else place * len(data))] ^= 1
    path.write_bytes(data)
    metric = Quadratic()
    with pytest.raises(ResumeError, match=r"line \d+") as caught:
        run(tmp_path, metric)
    assert str(path) in (caught.value.hint or "")
    assert metric.asked == []
    assert path.read_bytes() == data


def test_missing_and_exchanged_lines_are_damage(tmp_path: Path) -> None:
    run(tmp_path, Quadratic())
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in ([*lines[:4], *lines[5:]], [lines[0], lines[2], lines[1], *lines[3:]], lines[1:], [b"[]\n", *lines]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(ResumeError, match="damaged"):
            run(tmp_path, Quadratic())


@pytest.mark.parametrize("data", [b"\n", b"{}\n", b"\x00" * 4096 + b"\n", b"[" * 10**6 + b"]" * 10**6 + b"\n", b'{"a":1}\n'])
def test_other_files_are_damage(data: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(ResumeError):
        run(tmp_path, Quadratic())


def test_another_refinement_is_refused_by_what_differs(tmp_path: Path) -> None:
    run(tmp_path, Quadratic())
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ResumeError, match=r"differs in start$"), kept(Quadratic(), tmp_path, {**FACTS, "start": "xyz"}):
        pass
    with pytest.raises(ResumeError, match="damaged"), kept(Quadratic(images=4), tmp_path, FACTS):
        pass
    assert (tmp_path / FILE).read_bytes() == before


def test_no_file_before_the_first_measurement(tmp_path: Path) -> None:
    run(tmp_path / "new", Quadratic(interrupt_after=0))
    assert not (tmp_path / "new").exists()
    run(tmp_path / "new", Quadratic())
    forget(tmp_path / "new")
    forget(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_metric_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    metric = Quadratic()
    metric.linear[:, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        run(tmp_path / "new", metric)
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        run(tmp_path / "file" / "below", Quadratic())


class Slow(Quadratic):
    """Takes its time, so that a signal finds it at work."""

    def __call__(self, selections: Sequence[Selection], images: range) -> NDArray[np.float64]:
        time.sleep(0.002)
        return super().__call__(selections, images)


def in_a_process(folder: str) -> None:
    """What the processes below run."""
    sys.stdout.write(f"{run(Path(folder), Slow(WIDE), 'tensor-train', evaluations=150, batch=4)!r}\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_a_process_that_gets_a_signal_and_one_that_goes_on(number: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"import test_refine_journal as t; t.in_a_process({str(tmp_path)!r})"]
    here = os.path.dirname(__file__)  # noqa: PTH120
    rng = np.random.default_rng()  # another moment at every run of the tests
    for wanted in np.sort(rng.integers(1_000, 30_000, 2)).tolist():
        with subprocess.Popen(command, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and (not (path := tmp_path / FILE).exists() or path.stat().st_size < wanted):
                time.sleep(0.001)
            if process.poll() is None:
                process.send_signal(signal.Signals[number])
            _, said = process.communicate(timeout=60)
            assert process.returncode in (0, -signal.Signals[number]), said
    assert (tmp_path / FILE).stat().st_size >= 1_000
    last = subprocess.run(command, cwd=here, check=True, capture_output=True, text=True).stdout
    expected = run(tmp_path / "whole", Quadratic(WIDE), "tensor-train", evaluations=150, batch=4)
    assert last == f"{expected!r}\n"
    assert (tmp_path / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
