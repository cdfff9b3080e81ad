"""The whole tool on other tasks than denoising: classification, super-resolution, segmentation, metrics of the user's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import lively, photograph
from PIL import Image

from qcompress.cli.main import main

MODULE = """
import torch
from torch import nn

def classifier():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

def fixed():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12 * 12, 3))

def pooled():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 6 * 6, 3))

def enlarger():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

def segmenter():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

def brier(output, target):
    wanted = nn.functional.one_hot(target, output.shape[1])
    return (output.softmax(1) - wanted).square().sum(1)

brier.higher_is_better = False

def worst(output, target):
    return (output - target).abs().flatten(1).amax(1)

worst.higher_is_better = False
worst.loss = lambda output, target: (output - target).square().flatten(1).mean(1)

def wrong(output, target):
    return output.mean()
"""

FAST = ["--refine-evals", "4", "-s", "0.5", "--quiet", "--max-images", "24"]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Prunes a network of MODULE on `data` and gives the report; `slim` is where it is."""
    (tmp_path / "taskzoo.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "taskzoo", raising=False)
    monkeypatch.setattr("qcompress.latency._LEAST_ROUNDS", 6)

    def run(factory: str, data: Path, *more: str) -> dict[str, Any]:
        namespace: dict[str, Any] = {}
        exec(MODULE, namespace)
        torch.save(lively(namespace[factory]()).state_dict(), tmp_path / "net.pt")
        arch = ["--arch", f"taskzoo:{factory}"]
        arguments = ["prune", str(tmp_path / "net.pt"), *arch, "--data", str(data), "-o", "slim", *FAST, *more]
        code = main(arguments)
        assert code == 0, capsys.readouterr().err
        report: dict[str, Any] = json.loads((tmp_path / "slim" / "report.json").read_text())
        assert report["parity"]["passed"]
        assert report["units"]["pruned"] == report["units"]["total"] // 2
        return report

    return run


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Twelve pictures of each of three classes, 12x12."""
    for number in range(36):
        folder = tmp_path / "classes" / "cab"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        photograph(number, 12).save(folder / f"{number}.png")
    return tmp_path / "classes"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight clean pictures of 48x48."""
    (tmp_path / "pictures").mkdir()
    for number in range(8):
        photograph(number).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


@pytest.mark.slow
def test_classifier_of_a_folder(prune: Run, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = prune("classifier", classes, "--mean", "imagenet")
    assert (report["metric"]["name"], report["metric"]["unit"]) == ("top1", "%")
    assert report["metric"]["noisy"] is None and report["metric"]["ssim"] is None
    assert report["data"]["task"] == "classification"
    assert report["data"]["mean"] == [0.485, 0.456, 0.406]
    assert report["latency"]["input_shape"] == [1, 3, 12, 12]
    each = report["metric"]["per_image"]["artifact"]
    assert set(each) <= {0.0, 100.0}
    assert report["metric"]["artifact"] == pytest.approx(np.mean(each), abs=1e-4)
    assert (report["refine"]["metric"], report["refine"]["unit"]) == ("cross entropy", "nats")
    assert report["refine"]["gain"] >= 0 and report["refine"]["gain_db"] is None
    text = (tmp_path / "slim" / "report.md").read_text()
    assert "top-1 accuracy" in text and "cross entropy better by" in text
    assert "PSNR" not in text and "dB" not in text
    shown, folders = report["crops"]["rows"], {folder.name for folder in classes.iterdir() if folder.is_dir()}
    assert 1 <= len(shown) <= 8 and report["crops"]["changed"] <= len(each)
    assert all(row["name"].startswith(f"{row['label']}/") for row in shown)
    assert {one["name"] for row in shown for one in row["classes"]} <= folders
    assert (tmp_path / "slim" / "report.html").read_text().count("<img") == len(shown)
    assert "--mean 0.485,0.456,0.406" in report["command"]
    capsys.readouterr()
    checked = ["verify", "slim/model.onnx", "--reference", "slim/model.onnx", "--data", str(classes), "--mean", "imagenet"]
    assert main([*checked, "--max-images", "24", "--max-drop", "0", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"]["artifact"] == pytest.approx(report["metric"]["artifact"], abs=1e-4)
    assert found["metric"]["name"] == "top1"


@pytest.mark.slow
@pytest.mark.parametrize("network", ["fixed", "pooled"])
def test_classifier_of_one_input_size(prune: Run, classes: Path, network: str) -> None:
    """Pooling rounds 13 down to 12 / 2: such a network takes sizes that it was not made for, but not all that follow."""
    report = prune(network, classes)
    assert report["latency"]["input_shape"] == [1, 3, 12, 12]


@pytest.mark.slow
def test_classifier_on_arrays_with_copies(prune: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    x[20:] = x[:20]
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(40) % 3)
    report = prune("classifier", tmp_path / "set.npz", "--metric", "taskzoo:brier")
    assert report["metric"]["name"] == "brier"
    assert 0 <= report["metric"]["dense"] <= 2
    assert any("squared distance" in note for note in report["notes"])


@pytest.mark.slow
def test_images_are_resized_to_the_size_asked_for(prune: Run, classes: Path) -> None:
    report = prune("classifier", classes, "--size", "16")
    assert report["latency"]["input_shape"] == [1, 3, 16, 16]
    assert report["data"]["size"] == 16


@pytest.mark.slow
def test_super_resolution_of_clean_pictures_and_of_pairs(prune: Run, pictures: Path, tmp_path: Path) -> None:
    report = prune("enlarger", pictures, "--metric", "psnr-y", "--size", "32")
    assert report["data"]["task"] == "super-resolution"
    assert report["data"]["scale"] == 2
    assert report["metric"]["bicubic"] > 20 and report["metric"]["noisy"] is None
    assert "bicubic" in (tmp_path / "slim" / "report.md").read_text()
    for side, width in (("HR", 48), ("LR/X2", 24)):
        (tmp_path / "sr" / side).mkdir(parents=True)
        for number in range(8):
            name = f"{number:04}{'x2' if width == 24 else ''}.png"
            photograph(number).resize((width, width), Image.Resampling.BICUBIC).save(tmp_path / "sr" / side / name)
    again = prune("enlarger", tmp_path / "sr", "--metric", "psnr-y", "--size", "32", "-o", "pairs")
    del again
    paired = json.loads((tmp_path / "pairs" / "report.json").read_text())
    assert "low and high resolution" in paired["data"]["source"]
    assert paired["metric"]["bicubic"] == pytest.approx(report["metric"]["bicubic"], abs=0.5)


@pytest.mark.slow
def test_segmentation(prune: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side in ("images", "masks"):
        (tmp_path / "seg" / side).mkdir(parents=True)
    for number in range(9):
        photograph(number).save(tmp_path / "seg" / "images" / f"{number}.jpg")
        mask = np.kron(rng.integers(0, 4, (6, 6)), np.ones((8, 8))).astype(np.uint8)
        mask[:3] = 255
        Image.fromarray(mask).save(tmp_path / "seg" / "masks" / f"{number}.png")
    report = prune("segmenter", tmp_path / "seg", "--size", "32")
    assert (report["metric"]["name"], report["data"]["task"]) == ("miou", "segmentation")
    assert 0 <= report["metric"]["artifact"] <= 100
    assert all(0 <= row["changed"] <= 1 for row in report["crops"]["rows"])


@pytest.mark.slow
def test_own_metric_with_a_loss_of_its_own(prune: Run, pictures: Path) -> None:
    report = prune("enlarger", pictures, "--metric", "taskzoo:worst", "--size", "32", "--max-drop", "100")
    assert report["metric"]["name"] == "worst"
    assert report["metric"]["ssim"] is not None
    assert not any("squared distance" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--metric", "psnr"], 2, "metric psnr is for denoising and super-resolution, this is classification"),
        (["--metric", "taskzoo:none"], 2, "cannot be imported"),
        (["--metric", "taskzoo:wrong"], 2, "one value for each image"),
        (["--mean", "0.5,0.5"], 2, "mean has 2 numbers"),
        (["--mean", "half"], 2, "expected numbers"),
        (["--std", "0"], 2, "numbers above 0"),
        (["--noise", "gaussian:25"], 2, "own noise"),
    ],
)
def test_what_does_not_go_together_is_said(
    prune: Run, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, says: str
) -> None:
    namespace: dict[str, Any] = {}
    exec(MODULE, namespace)
    torch.save(lively(namespace["classifier"]()).state_dict(), tmp_path / "net.pt")
    arguments = ["prune", "net.pt", "--arch", "taskzoo:classifier", "--data", str(classes), "-o", "none", *FAST]
    assert main([*arguments, *more]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "none" / "report.json").exists()


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("nn.Conv2d(3, 2, 3, padding=1)", "images of 3 channels; for an input (1, 3, 64, 64) it returns (1, 2, 64, 64)"),
        ("nn.Conv2d(3, 3, 3)", "it returns (1, 3, 62, 62)"),
        ("nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(2))", "it returns (1, 4, 4096)"),
    ],
)
def test_outputs_that_no_image_can_judge(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, network: str, says: str
) -> None:
    module = f"from torch import nn\n\ndef build():\n    return {network}\n"
    (tmp_path / "oddzoo.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "oddzoo", raising=False)
    torch.save(eval(network, {"nn": torch.nn}).state_dict(), tmp_path / "net.pt")
    arguments = ["prune", "net.pt", "--arch", "oddzoo:build", "--data", str(pictures), "--noise", "gaussian:25", "-o", "none"]
    assert main([*arguments, *FAST]) == 3
    shown = capsys.readouterr().err
    assert says in shown
    assert "images/ and masks/" in shown


def test_data_of_another_task(
    prune: Run, classes: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, Any] = {}
    exec(MODULE, namespace)
    torch.save(lively(namespace["classifier"]()).state_dict(), tmp_path / "net.pt")
    start = ["prune", "net.pt", "--arch", "taskzoo:classifier", "-o", "none", *FAST]
    assert main([*start, "--data", str(pictures)]) == 3
    assert "subfolders with images" in capsys.readouterr().err
    assert main(start) == 2
    assert "have no labels" in capsys.readouterr().err
    (classes / "d").mkdir()
    for number in range(12):
        photograph(100 + number, 12).save(classes / "d" / f"{number}.png")
    assert main([*start, "--data", str(classes)]) == 3
    assert "knows 3 classes" in capsys.readouterr().err
