"""`prune --recover finetune`, with `--steps`, Ctrl-C and `--resume`, as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qcompress import latency, pipeline
from qcompress.cli import render
from qcompress.cli.main import main
from qcompress.finetune import state as states
from qcompress.progress import SILENT
from qcompress.selection import Selection
from qcompress.settings import DataOptions, Settings, VerifyOptions

FAST = ["--noise", "gaussian:25", "--size", "32", "--refine-evals", "0", "--recover", "finetune", "-q"]


def arguments(checkpoint: Path, images: Path, out: Path, *more: str) -> list[str]:
    return ["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST, *more]


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Latency is not what these tests are about."""
    compare = latency.compare
    monkeypatch.setattr(latency, "compare", lambda *given, **options: compare(*given, **{**options, "max_seconds": 0.2}))
    yield


@pytest.mark.slow
def test_ctrl_c_finishes_and_resume_goes_on(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To which weights is in test_finetune.py and test_gradual.py."""
    chosen = ["--finetune-steps", "24", "--learning-rate", "1e-4", "--teaching", "1", "--steps", "2", "-s", "0.4"]
    out, write, calls = tmp_path / "out", states.write, iter(range(1000))

    def interrupted(*given: object) -> None:
        write(*given)  # type: ignore[arg-type]
        if next(calls) == 16:  # in the second step
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(states, "write", interrupted)
        assert main(arguments(checkpoint, images, out, *chosen)) == 130
    early = report(out)
    assert early["status"] == early["recover"]["training"]["ended"] + "ed" == "interrupted"
    assert len(states.files(out)) == 2
    capsys.readouterr()
    assert main(arguments(checkpoint, images, out, *chosen)) == 3
    shown = " ".join(capsys.readouterr().err.split())
    assert "the weights of a fine-tuning that can go on" in shown
    assert "--resume" in shown
    assert main(arguments(checkpoint, images, out, *chosen, "--resume")) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "crops.png",
        "model.onnx",
        "model.safetensors",
        "plan.json",
        "report.html",
        "report.json",
        "report.md",
    ]
    facts = report(out)
    training, steps = facts["recover"]["training"], facts["recover"]["steps"]
    assert (training["seed"], training["rate"], training["tried"]) == (0, 1e-4, [])
    assert facts["recover"]["value"] == training["best"] >= training["start"]
    assert len(training["history"]) > len(early["recover"]["training"]["history"])
    assert [step["pruned"] for step in steps] == [8]
    assert facts["units"]["pruned"] == 16
    assert "--steps 2" in facts["command"]
    assert "--finetune-steps 24" in facts["command"]
    text = (out / "report.md").read_text()
    assert "Fine-tuning, from the dense network's outputs" in text
    assert "Pruned in 2 steps" in text


@pytest.mark.slow
def test_a_plan_is_fine_tuned_and_goes_on(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data=DataOptions(images, "gaussian:25"), verify=VerifyOptions(size=32))
    job = pipeline.prepare(checkpoint, settings, SILENT)
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    other = tmp_path / "other.json"
    for path, units in ((plan, (0, 1, 9)), (other, (0, 2, 9))):
        selection = Selection(job.groups.space, units)
        path.write_text(pipeline._plan_of(job, pipeline.Choice(selection, selection, selection)).to_json())
    short = ["--finetune-steps", "24", "--learning-rate", "1e-4", "--teaching", "1", "--recover", "finetune", "--no-crops"]
    again = ["apply", str(plan), str(checkpoint), "--data", str(images), "--noise", "gaussian:25", "-o", str(out), *short]
    write, calls = states.write, iter(range(1000))

    def interrupted(*given: object) -> None:
        write(*given)  # type: ignore[arg-type]
        if next(calls) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(states, "write", interrupted)
        assert main(again) == 130
    assert "--resume goes on from here" in " ".join(capsys.readouterr().err.split())
    early = report(out)["recover"]["training"]
    assert main(again) == 3
    kept = states.file_of(out, 1).read_bytes()
    assert main([*again[:1], str(other), *again[2:], "--resume"]) == 3
    assert "differs in slim network" in " ".join(capsys.readouterr().err.split())
    assert states.file_of(out, 1).read_bytes() == kept
    assert main([*again, "--resume"]) == 0
    found = report(out)["recover"]["training"]
    assert found["history"][: len(early["history"])] == early["history"]
    assert early["ended"] == "interrupt" != found["ended"]
    assert not states.files(out)
    capsys.readouterr()
    assert main(["apply", str(plan), str(checkpoint), "-o", str(out), "--resume"]) == 2
    assert "with --recover lstsq there is nothing to go on with" in " ".join(capsys.readouterr().err.split())


def test_a_log_hears_of_a_long_stage_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr("qcompress.cli.render.time.monotonic", lambda: now)
    with render.Terminal().stage("fine-tuning", 1.0) as advance:
        for step in range(200):
            now += 0.5
            advance(step / 200, f"29.{step:03} dB, step {step}")
    shown = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [line[:3] for line in shown] == [["fine-tuning", seconds, "s"] for seconds in ("30.0", "60.0", "90.0", "100.0")]
    assert [" ".join(line[3:]) for line in shown] == [
        *(f"{round(100 * step / 200)} % 29.{step:03} dB, step {step}" for step in (59, 119, 179)),
        "29.199 dB, step 199",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--recover", "lstsq", "--minutes", "5"], "--recover finetune"),
        (["--minutes", "5", "--epochs", "2"], "minutes and epochs"),
        (["--minutes", "0"], "above 0"),
        (["--teaching", "2"], "0..1"),
        (["--steps", "2", "--selection", "found.json"], "one step"),
    ],
)
def test_wrong_usage(
    more: list[str], said: str, checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(checkpoint, images, tmp_path / "o", *more)) == 2
    assert said in " ".join(capsys.readouterr().err.split())
