"""`prune --resume`, `--refine-minutes`: runs of hours that end before they are done, as a user meets them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcompress import latency
from qcompress.cli.main import main
from qcompress.errors import UsageError
from qcompress.refine.journal import FILE
from qcompress.refine.objective import SlicedMetric
from qcompress.settings import RefineOptions

FAST = ["--noise", "gaussian:25", "--size", "32", "--recover", "none", "--align", "1", "-q"]
SAME = ("plan.json", "model.safetensors", "model.onnx")


def arguments(checkpoint: Path, images: Path, out: Path, *more: str) -> list[str]:
    return ["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST, *more]


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ctrl-C at that call of the evaluator."""
    measure, calls = SlicedMetric.__call__, iter(range(100_000))

    def interrupted(self: SlicedMetric, *arguments: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return measure(self, *arguments)

    monkeypatch.setattr(SlicedMetric, "__call__", interrupted)


def same(out: Path, expected: Path) -> None:
    for name in SAME:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name
    assert report(out)["refine"] == report(expected)["refine"]
    assert {path.name for path in out.iterdir()} == {path.name for path in expected.iterdir()}


@pytest.fixture(scope="module", autouse=True)
def _hasty() -> Iterator[None]:
    """Latency is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        compare = latency.compare
        patch.setattr(latency, "compare", lambda *given, **options: compare(*given, **{**options, "max_seconds": 0.2}))
        yield


@pytest.fixture(scope="module")
def whole(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "o"
    assert main(arguments(checkpoint, images, out, "--refine-evals", "40")) == 0
    assert report(out)["refine"]["ended"] == "evaluations"
    assert not (out / FILE).exists()
    return out


@pytest.mark.slow
def test_ctrl_c_and_resume_give_the_uninterrupted_result(
    whole: Path,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "o"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 25)
        assert main(arguments(checkpoint, images, out, "--refine-evals", "30")) == 130
    journal = (out / FILE).read_bytes()
    capsys.readouterr()
    assert main(arguments(checkpoint, images, out, "--refine-evals", "40")) == 3
    shown = capsys.readouterr().err
    assert "can go on" in shown
    assert "--resume" in shown
    assert str(out / FILE) in shown
    assert main(arguments(checkpoint, images, out, "--refine-evals", "40", "--resume", "--seed", "1")) == 3
    assert "seed" in capsys.readouterr().err
    assert (out / FILE).read_bytes() == journal
    assert main(arguments(checkpoint, images, out, "--refine-evals", "40", "--resume")) == 0  # and more than before
    same(out, whole)


def test_a_second_ctrl_c_gives_up_and_says_what_is_kept(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("qcompress.deciding.repair", interrupt)
    out = tmp_path / "o"
    assert main(arguments(checkpoint, images, out, "--refine-evals", "6")) == 130
    shown = capsys.readouterr().err
    assert "no result was written" in shown
    assert str(out / FILE) in shown


def test_resume_without_anything_to_go_on_with_begins_anew(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = [word for word in arguments(checkpoint, images, tmp_path / "o", "--refine-evals", "3", "--resume") if word != "-q"]
    assert main(loud) == 0
    assert "begins anew" in capsys.readouterr().err
    written = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    assert main(loud) == 3  # and a run that is complete is left as it is
    shown = " ".join(capsys.readouterr().err.split())
    assert "there is nothing to go on with in" in shown
    assert "an earlier run there is complete" in shown
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == written


@pytest.mark.slow
def test_the_clock_ends_a_refinement_that_can_go_on(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert main(arguments(checkpoint, images, out, "--refine-minutes", "0.0001")) == 0
    first = report(out)
    assert first["refine"]["ended"] == "minutes"
    assert "--refine-minutes 0.0001" in first["command"]
    assert (out / FILE).exists()
    assert main(arguments(checkpoint, images, out, "--refine-minutes", "0.0001", "--resume")) == 0
    assert report(out)["refine"]["evaluations"] > first["refine"]["evaluations"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--refine-minutes", "0"], "above 0"),
        (["--refine-minutes", "nan"], "above 0"),
        (["--resume", "--refine-evals", "0"], "0 evaluations"),
    ],
)
def test_wrong_usage(
    more: list[str], said: str, checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(checkpoint, images, tmp_path / "o", *more)) == 2
    assert said in capsys.readouterr().err


def test_how_many_evaluations() -> None:
    assert RefineOptions().most == 200
    assert RefineOptions(minutes=1.0).most is None
    assert RefineOptions(7, minutes=1.0).most == 7
    assert RefineOptions(0).most == 0
    for wrong in ({"batch": 0}, {"evaluations": -1}, {"minutes": float("inf")}):
        with pytest.raises(UsageError):
            RefineOptions(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_real_process_gets_a_signal(name: str, whole: Path, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out, number = tmp_path / "o", signal.Signals[name]
    command = [sys.executable, "-m", "qcompress.cli.main", *arguments(checkpoint, images, out, "--refine-evals", "40")]
    lines = int(np.random.default_rng().integers(2, 30))  # another moment at every run of the tests
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not ((out / FILE).exists() and (out / FILE).read_bytes().count(b"\n") >= lines):
            time.sleep(0.001)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    ends = {-number, 130} if number == signal.SIGKILL else {130, 0}  # 0: Python drops an interrupt that falls into a destructor
    assert process.returncode in ends, said
    if process.returncode:
        assert (out / FILE).exists()
        assert (out / "report.json").exists() == (number == signal.SIGINT)
        assert main(arguments(checkpoint, images, out, "--refine-evals", "40", "--resume")) == 0
    same(out, whole)
