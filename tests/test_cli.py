"""The command line as a user meets it: results, errors, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import lively, photograph
from PIL import Image

import qcompress
from qcompress.architectures.dncnn import DnCNN
from qcompress.architectures.half_unet import HalfUNet
from qcompress.checking import verify
from qcompress.cli.main import main
from qcompress.settings import CheckpointOptions, DataOptions, Limits, Settings, VerifyOptions
from qcompress.workers.measuring import SpreadMetric

FAST = ["--noise", "gaussian:25", "--refine-evals", "6", "--size", "32", "--quiet"]
KEPT = {".refinement.jsonl", ".scores.safetensors"}
FILES = {"model.onnx", "model.safetensors", "plan.json", "report.json", "report.md", "report.html", "crops.png"}


@pytest.fixture(scope="module")
def slim(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run that all tests here may read."""
    out = tmp_path_factory.mktemp("out") / "net.slim"
    assert main(["prune", str(checkpoint), "-s", "0.5", "--data", str(images), "--out", str(out), *FAST]) == 0
    return out


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> str:
    """Runs, expects `code`, one error line and at most a hint on stderr and nothing on stdout; returns stderr."""
    assert main(arguments) == code
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert shown.out == ""
    assert len([line for line in lines if line.startswith("error: ")]) == 1, shown.err
    assert "Traceback" not in shown.err
    return shown.err


def test_prune_writes_everything_and_the_report_is_true(slim: Path, checkpoint: Path) -> None:
    assert {path.name for path in slim.iterdir()} == FILES
    report = json.loads((slim / "report.json").read_text())
    plan = json.loads((slim / "plan.json").read_text())
    assert report["schema"] == 1
    assert report["status"] == "ok"
    assert report["units"]["total"] == 40
    assert report["units"]["pruned"] == 20 == sum(len(group["pruned"]) for group in plan["groups"].values())
    model = qcompress.load(slim)
    assert sum(p.numel() for p in model.parameters()) >= report["cost"]["params"]["slim"]  # repair may add biases
    assert report["cost"]["bytes"]["slim"] == (slim / "model.onnx").stat().st_size
    assert report["parity"]["passed"]
    assert report["metric"]["artifact"] == pytest.approx(report["metric"]["slim"], abs=1e-3)
    assert report["refine"]["evaluations"] <= 6
    assert len({report["data"][role]["sha256"] for role in ("calibration", "selection", "report")}) == 3
    assert str(checkpoint) in report["command"]
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert sum(layer["kept_outputs"] < layer["outputs"] for layer in layers.values()) >= 1
    assert layers["out"]["kept_inputs"] == model.state_dict()["out.weight"].shape[1]
    assert [row["name"] for row in report["crops"]["rows"]]
    assert (slim / "report.html").read_text(encoding="utf-8").count("<img") == 5 * len(report["crops"]["rows"])


@pytest.mark.slow
def test_default_output_folder_is_next_to_the_checkpoint(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mine.pth.tar"
    shutil.copy(checkpoint, copy)
    assert main(["prune", str(copy), "--data", str(images), *FAST, "--refine-evals", "0"]) == 0
    assert {path.name for path in (tmp_path / "mine.slim").iterdir()} == FILES


@pytest.mark.slow
def test_same_seed_same_network(slim: Path, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["prune", str(checkpoint), "-s", "0.5", "--data", str(images), "--out", str(out), *FAST]) == 0
    for name in ("plan.json", "model.safetensors", "model.onnx"):
        assert (out / name).read_bytes() == (slim / name).read_bytes(), name


@pytest.mark.slow
def test_apply_gives_the_same_network(slim: Path, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "applied"
    arguments = ["apply", str(slim), str(checkpoint), "--data", str(images), "--noise", "gaussian:25", "-o", str(out), "-q"]
    assert main(arguments) == 0
    assert (out / "model.safetensors").read_bytes() == (slim / "model.safetensors").read_bytes()


def test_json_is_the_report(checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["prune", str(checkpoint), "--data", str(images), "--out", str(out), "--json", *FAST]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((out / "report.json").read_text())
    assert shown.err == ""


@pytest.mark.slow
def test_progress_goes_to_stderr_and_names_the_stages(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prune", str(checkpoint), "--data", str(images), "--out", str(tmp_path / "o"), *FAST[:-1]]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    for stage in ("second moments", "reconstruction", "capacity search", "refinement", "repair", "export", "latency"):
        assert stage in shown.err
        assert stage not in shown.out.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["l1-qubo", "taylor", "fisher", "magnitude", "random"])
def test_every_objective_meets_the_count(objective: str, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    arguments = ["--objective", objective, "--recover", "none", "--refine-evals", "0", "--sparsity", "0.3"]
    assert main(["prune", str(checkpoint), "--data", str(images), "--out", str(out), *FAST, *arguments]) == 0
    assert json.loads((out / "report.json").read_text())["units"]["pruned"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("proposer", ["hill-climbing", "protes"])
def test_every_proposer_keeps_the_count(proposer: str, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    arguments = ["--proposer", proposer, "--align", "1", "--refine-evals", "12", "--recover", "none"]
    assert main(["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST, *arguments]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["units"]["pruned"] == 20
    assert report["refine"]["gain_db"] == report["refine"]["gain"] >= 0
    assert f"--proposer {proposer}" in report["command"]


@pytest.mark.slow
def test_blocks_of_channels(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """Seven units are asked for; groups of eight keep four or all, so eight go, and the report says why."""
    out = tmp_path / "o"
    arguments = ["--align", "4", "-s", "0.175"]
    assert main(["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST, *arguments]) == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["search"]["asked"], report["search"]["capacity"], report["search"]["align"]) == (7, 8, 4)
    assert {group["pruned"] for group in report["units"]["per_group"].values()} == {0, 4}
    assert any("multiples of 4" in note for note in report["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["params", "macs"])
def test_cost_budgets_are_reached(budget: str, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert main(["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST, "--budget", budget, "-s", "0.4"]) == 0
    cost = json.loads((out / "report.json").read_text())["cost"][budget]
    assert 0.4 * cost["dense"] <= cost["dense"] - cost["slim"] <= 0.5 * cost["dense"]


def test_limits_missed_is_exit_4_with_reasons_and_files(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    limits = ["--max-drop", "0", "--min-speedup", "1000", "-s", "0.6", "--recover", "none"]
    assert main(["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST, *limits]) == 4
    report = json.loads((out / "report.json").read_text())
    assert report["status"] == "threshold-missed"
    assert any("speedup" in reason for reason in report["reasons"])
    assert {path.name for path in out.iterdir()} == FILES
    assert "missed: the speedup" in capsys.readouterr().out


@pytest.mark.parametrize("sparsity", ["1", "-1", "nan", "0.99", "x"])
def test_impossible_sparsities(sparsity: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(capsys, ["prune", str(checkpoint), f"--sparsity={sparsity}", "-o", str(tmp_path / "o"), "-q"], 2)
    assert "sparsity" in error
    if sparsity == "0.99":
        assert "maximum is 0.875" in error  # 35 of 40 units: every group keeps one
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_sparsity_0_is_the_dense_network(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert main(["prune", str(checkpoint), "--data", str(images), "-o", str(out), "-s", "0", *FAST]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["units"]["pruned"] == 0
    assert report["metric"]["slim"] == pytest.approx(report["metric"]["dense"], abs=1e-3)


def empty(folder: Path) -> None:
    """No image at all."""


def one_image(folder: Path) -> None:
    """A single image cannot be three disjoint splits."""
    photograph(0).save(folder / "only.png")


def unpaired(folder: Path) -> None:
    """noisy/ and clean/ with different names."""
    for name, stem in (("noisy", "a"), ("clean", "b")):
        (folder / name).mkdir()
        for number in range(4):
            photograph(number).save(folder / name / f"{stem}{number}.png")


def too_small(folder: Path) -> None:
    """Images of one pixel, smaller than the stride of 2."""
    for number in range(4):
        photograph(number, size=1).save(folder / f"{number}.png")


def corrupt(folder: Path) -> None:
    """Files that only claim to be images."""
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")


@pytest.mark.parametrize("fill", [empty, one_image, unpaired, too_small, corrupt])
def test_unusable_images(
    fill: Callable[[Path], None], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    fill(folder)
    noise = [] if fill is unpaired else ["--noise", "gaussian:25"]
    fails(capsys, ["prune", str(checkpoint), "--data", str(folder), "-o", str(tmp_path / "o"), "-q", *noise], 3)
    assert not (tmp_path / "o").exists()


def test_images_with_other_channels_than_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Grey and colour are converted; a network of five channels takes neither."""
    torch.save(lively(HalfUNet(5, 8, 2, ghost=False)).state_dict(), tmp_path / "five.pt")
    error = fails(capsys, ["prune", str(tmp_path / "five.pt"), "-o", str(tmp_path / "o"), "-q"], 3)
    assert "5" in error


def test_nan_weights(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["out.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    assert "out.weight" in fails(capsys, ["prune", str(tmp_path / "nan.pt"), "-q"], 3)


def test_a_corrupt_plan_and_a_plan_of_another_checkpoint(
    slim: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text((slim / "plan.json").read_text()[:-40])
    assert "not JSON" in fails(capsys, ["apply", str(tmp_path / "plan.json"), str(checkpoint), "-q"], 3)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["out.weight"] += 1
    torch.save(state, tmp_path / "other.pt")
    error = fails(capsys, ["apply", str(slim), str(tmp_path / "other.pt"), "-o", str(tmp_path / "o"), "-q"], 3)
    assert "the plan is for net.pt" in error


def test_the_output_is_a_file(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "o").write_text("mine")
    fails(capsys, ["prune", str(checkpoint), "-o", str(tmp_path / "o"), "-q"], 3)
    assert (tmp_path / "o").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root may write to")
def test_no_write_permission(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot write" in fails(capsys, ["prune", str(checkpoint), "-o", "/proc/self/o", "-q"], 3)


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: writing fails in the same place, half-way."""
    out = tmp_path / "o"
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000));"
        "from qcompress.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST]
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=200)
    assert run.returncode == 3, run.stderr
    assert "cannot write" in run.stderr
    assert "Traceback" not in run.stderr
    assert "--resume goes on from there" in run.stderr
    assert {path.name for path in out.iterdir()} <= KEPT


@pytest.mark.parametrize("objective", ["auto", "reconstruction"])
def test_steps_are_for_scores(objective: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prune", str(checkpoint), "-o", str(tmp_path / "o"), "--objective", objective, "--relinearise", "2", "-q"]
    assert "relinearise 2: objective reconstruction is not made from scores" in fails(capsys, arguments, 2)
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_without_repair_scores_are_taken_in_steps(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    common = ["--data", str(images), *FAST, "--refine-evals", "0", "--recover", "none"]
    assert main(["prune", str(checkpoint), "-o", str(out), *common, "--relinearise", "2"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["units"]["pruned"] == 20
    assert "--objective hybrid" in report["command"]
    assert "--relinearise 2" in report["command"]


@pytest.mark.slow
def test_ctrl_c_during_refinement_writes_the_best_so_far(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = SpreadMetric.__call__, iter(range(1000))

    def interrupted(self: SpreadMetric, *arguments: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, *arguments)

    monkeypatch.setattr(SpreadMetric, "__call__", interrupted)
    out = tmp_path / "o"
    arguments = ["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST, "--refine-evals", "500"]
    assert main(arguments) == 130
    report = json.loads((out / "report.json").read_text())
    assert report["status"] == "interrupted"
    assert report["units"]["pruned"] == 20
    assert report["refine"]["ended"] == "interrupt"
    assert {path.name for path in out.iterdir()} == FILES | {".refinement.jsonl"}


def test_ctrl_c_elsewhere_writes_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("qcompress.reconstruction.eliminated", interrupt)
    fails(capsys, ["prune", str(checkpoint), "-o", str(tmp_path / "o"), "-q"], 130)
    assert not (tmp_path / "o").exists()


def test_errors_are_json_in_json_mode(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["prune", "/nowhere.pt", "--json"], 3), (["prune", "x", "--no-such-option", "--json"], 2)):
        assert main(arguments) == code
        shown = capsys.readouterr()
        error = json.loads(shown.out)
        assert error["status"] == "error"
        assert error["error"]["exit_code"] == code
        assert shown.err == ""


def test_unknown_names_are_wrong_usage(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (
        ("--backend", "abacus"),
        ("--objective", "wisdom"),
        ("--metric", "taste"),
        ("--noise", "loud"),
        ("--coefficient", "alpha"),
        ("--arch-args", "[1]"),
        ("--device", "abacus"),
        ("--proposer", "abacus"),
        ("--align", "sideways"),
        ("--align", "0"),
        ("--ignore", "nothing.like.this"),
    ):
        fails(capsys, ["prune", str(checkpoint), option, value, "-q"], 2)


def test_inspect(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--size", "32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoint"]["architecture"] == "half-unet"
    assert found["units"] == 40
    assert [group["units"] for group in found["groups"]] == [8] * 5
    assert found["kept_whole"] == [{"layer": "out", "reason": found["kept_whole"][0]["reason"]}]
    assert main(["inspect", str(checkpoint), "--size", "32"]) == 0
    assert "enc.0.1.0" in capsys.readouterr().out


def test_ignored_layers_stay(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--size", "32", "--ignore", "dec.*", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not any(group["name"].startswith("dec") for group in found["groups"])


@pytest.mark.slow
def test_export_of_a_checkpoint_and_of_a_slim_folder(
    slim: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in (slim, checkpoint):
        target = tmp_path / f"{source.stem}{source.suffix}.onnx"
        assert main(["export", str(source), "-o", str(target), "--size", "32", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["bytes"] == target.stat().st_size
        assert said["dynamic"]
    fails(capsys, ["export", str(checkpoint), "-o", str(tmp_path / "x"), "--to", "stone-tablet"], 2)
    fails(capsys, ["export", str(tmp_path), "-o", str(tmp_path / "x")], 3)


@pytest.mark.slow
def test_verify_an_onnx_file_against_its_checkpoint(
    slim: Path, checkpoint: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(images), "--noise", "gaussian:25", "--size", "32", "-q"]
    arguments = ["verify", str(slim / "model.onnx"), *data, "--json"]
    assert main([*arguments, "--reference", str(slim)]) == 0
    found = json.loads(capsys.readouterr().out)
    report = json.loads((slim / "report.json").read_text())
    assert found["metric"]["artifact"] == pytest.approx(report["metric"]["artifact"], abs=1e-4)
    assert found["parity"]["rel"] < 1e-5
    assert main([*arguments, "--reference", str(checkpoint), "--min-speedup", "1000"]) == 4
    assert "speedup" in json.loads(capsys.readouterr().out)["reasons"][0]
    fails(capsys, ["verify", str(slim / "plan.json"), *data], 3)
    for limit in ("--max-drop", "--min-speedup"):  # a gate without anything to compare with must not pass
        assert "reference" in fails(capsys, ["verify", str(slim / "model.onnx"), *data, limit, "1"], 2)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from qcompress.cli.main import main; code = main(['prune', '--help']);"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'dwave', 'torch_pruning', 'scipy', 'matplotlib'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else code)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "--sparsity" in run.stdout


@pytest.mark.slow
def test_a_real_interrupt_signal(images: Path, tmp_path: Path) -> None:
    """SIGINT while the refinement runs, as a terminal sends it; a network too wide to run out of swaps by then."""
    checkpoint = tmp_path / "wide.pt"
    torch.save(lively(HalfUNet(3, 48, 2, ghost=False)).state_dict(), checkpoint)

    out = tmp_path / "o"
    arguments = [
        "prune",
        str(checkpoint),
        "--data",
        str(images),
        "-o",
        str(out),
        *FAST[:-1],
        "--refine-evals",
        "100000",
        "--align",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "qcompress.cli.main", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore it
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "capacity search" in line:  # the stage before has ended
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    try:
        _, rest = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:  # Python drops an interrupt that falls into a destructor or a C callback
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert (out / "report.json").exists(), rest
    assert json.loads((out / "report.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_shipped_photographs_are_announced(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prune", str(checkpoint), "-o", str(tmp_path / "o"), "--refine-evals", "0", "--size", "32"]
    assert main([*arguments, "--recover", "bias"]) == 0
    announced = [line for line in capsys.readouterr().err.splitlines() if "photographs that ship" in line]
    assert len(announced) == 1


@pytest.mark.slow
def test_grey_networks_and_16_bit_pictures(tmp_path: Path) -> None:
    torch.save(lively(DnCNN(channels=1, depth=4, width=8)).state_dict(), tmp_path / "grey.pt")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        grey = np.asarray(photograph(number).convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(folder / f"{number}.png")
    out = tmp_path / "o"
    assert main(["prune", str(tmp_path / "grey.pt"), "--data", str(folder), "-o", str(out), *FAST]) == 0
    assert json.loads((out / "report.json").read_text())["checkpoint"]["architecture"] == "dncnn"


@pytest.mark.slow
def test_export_of_several_formats_keeps_what_worked_and_says_what_did_not(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(checkpoint), "-o", str(tmp_path / "all"), "--size", "32", "--weights", "float16", "--json", "-q"]
    assert main([*arguments, "--to", "ort,onnx"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["status"] == "failed"
    assert [(one["format"], one["state"]) for one in said["formats"]] == [("ort", "failed"), ("onnx", "verified")]
    assert "float16" in said["formats"][0]["reason"]
    assert said["formats"][1]["parity"]["db"] > 80
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["net.onnx"]
    fails(capsys, ["export", str(checkpoint), "-o", str(tmp_path / "x.onnx"), "--to", "onnx,pt2"], 2)


@pytest.mark.slow
def test_verify_in_another_runtime(
    slim: Path, checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "slim.pt2"
    assert main(["export", str(slim), "-o", str(program), "--size", "32"]) == 0
    capsys.readouterr()
    arguments = ["verify", str(program), "--data", str(images), "--noise", "gaussian:25", "-q"]
    assert "can run code" in fails(capsys, arguments, 2)
    assert "mnn opens files that end in .mnn" in fails(capsys, [*arguments, "--runtime", "mnn"], 2)
    assert "unknown" in fails(capsys, [*arguments, "--runtime", "abacus"], 2)
    settings = Settings(
        checkpoint=CheckpointOptions(trust_pickle=True),
        data=DataOptions(images, "gaussian:25"),
        verify=VerifyOptions(size=32, max_seconds=0.2),
        limits=Limits(min_speedup=1000),
    )
    check = verify(program, checkpoint, settings)
    assert (check.runtime, check.found.size_bytes) == ("torch", program.stat().st_size)
    assert check.race.same is not None
    assert check.race.onnx is not None
    assert check.race.same.dense_ms > 0
    assert check.exit_code in (4, 6)  # few rounds decide nothing
    report = json.loads((slim / "report.json").read_text())
    assert check.found.artifact.mean() == pytest.approx(report["metric"]["artifact"], abs=1e-3)
    assert [row[0] for row in check.rows()[-2:]] == ["latency in torch", "against ONNX in onnxruntime"]
    alone = verify(program, slim / "model.onnx", replace(settings, limits=Limits()))
    assert alone.race.same is None
    assert alone.race.onnx is not None
    assert "torch does not open the reference" in alone.race.notes[0]


@pytest.mark.slow
def test_without_crops_no_picture_leaves_the_run(slim: Path, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    data = ["--data", str(images), "--noise", "gaussian:25", "-q"]
    assert main(["apply", str(slim), str(checkpoint), *data, "--recover", "none", "--no-crops", "-o", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == FILES - {"crops.png"}
    assert "<img" not in (out / "report.html").read_text(encoding="utf-8")
