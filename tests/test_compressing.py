"""Joint pruning and quantisation from the command line to the file: sizes, widths, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qcompress
from qcompress import checkpoints, compressing, quantised_file
from qcompress.cli.main import main
from qcompress.data import splits
from qcompress.data.images import Pair
from qcompress.quantities import Size
from qcompress.settings import CompressOptions, DataOptions, Settings, VerifyOptions

DTYPES = {"float16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8, "int4": onnx.TensorProto.INT4}


def run(checkpoint: Path, images: Path, out: Path, *options: str) -> int:
    data = ["--data", str(images), "--noise", "gaussian:25", "--size", "32", "--align", "1", "-q"]
    return main(["compress", str(checkpoint), "-o", str(out), *data, *options])


def facts(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads((folder / "report.json").read_text()), json.loads((folder / "plan.json").read_text())


@pytest.fixture(scope="module")
def joint(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joint") / "net.slim"
    assert run(checkpoint, images, out, "--target-size", "0.6", "--calibration", "minmax") == 0
    return out


def test_the_file_is_as_small_as_asked_and_holds_the_widths_of_its_plan(joint: Path) -> None:
    report, plan = facts(joint)
    size = (joint / "model.onnx").stat().st_size
    assert size == report["compression"]["size"] == report["cost"]["bytes"]["slim"]
    assert size <= report["compression"]["target"] == int(0.6 * report["cost"]["bytes"]["dense"])
    held = {layer["layer"]: layer["width"] for layer in report["compression"]["layers"] if layer["width"] != "float32"}
    assert held == plan["widths"]
    assert held
    model = onnx.load(joint / "model.onnx")
    counts = [tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4]
    for width, dtype in DTYPES.items():
        assert counts.count(dtype) == list(held.values()).count(width), width
    assert report["parity"] is None
    integer = {layer["layer"] for layer in report["compression"]["layers"] if layer["integer"]}
    assert integer == {name for name, width in held.items() if width == "int8"}  # with auto int4 is storage
    assert "Layers in the file" in (joint / "report.html").read_text()
    assert not any("bytes were to go" in note for note in report["notes"])  # of a problem that no one asked about
    assert report["latency"]["speedup"] > 0
    assert report["command"].startswith("qcompress compress ")
    assert "chosen together" in (joint / "report.md").read_text()


def test_what_was_written_is_a_slim_folder(joint: Path) -> None:
    slim = qcompress.load(joint)
    report, _ = facts(joint)
    assert sum(parameter.numel() for parameter in slim.parameters()) <= report["cost"]["params"]["dense"]


@pytest.mark.slow
def test_a_share_of_filters_at_one_width(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    assert run(checkpoint, images, tmp_path / "o", "--sparsity", "0.25", "--bits", "8") == 0
    report, plan = facts(tmp_path / "o")
    assert report["units"]["pruned"] == 10
    assert {layer["width"] for layer in report["compression"]["layers"]} == {"int8"}
    assert set(plan["widths"].values()) == {"int8"}
    assert report["compression"]["calibration"] in ("minmax", "percentile", "entropy")
    assert report["compression"]["simulation_db"] is None or report["compression"]["simulation_db"] > 40


@pytest.mark.slow
def test_the_formulation_of_the_paper_meets_the_size_too(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    options = (
        "--objective",
        "aqc",
        "--target-size",
        "0.6",
        "--bits",
        "8,16,32",
        "--calibration",
        "minmax",
        "--recover",
        "none",
    )
    assert run(checkpoint, images, tmp_path / "o", *options) == 0
    report, plan = facts(tmp_path / "o")
    assert report["compression"]["size"] <= report["compression"]["target"]
    assert plan["objective"] == report["search"]["objective"] == "aqc"
    assert "--objective aqc" in report["command"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target-size", "0.01"), "cannot be reached"),
        (("--bits", "3"), "bits '3' are not known"),
        (("--objective", "hybrid"), "does not choose widths"),
        (("--target-size", "much"), "expected a number"),
        (("--calibration", "guess"), "calibration 'guess' is not known"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: tuple[str, ...], said: str, checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, images, tmp_path / "o", *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "hint:" in error
    assert not (tmp_path / "o").exists()


def test_the_size_of_the_file_is_known_before_the_network_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers without a bias get one where they are quantised."""
    torch.manual_seed(0)
    bare = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Conv2d(16, 16, 3, padding=1, bias=False)]
    model = nn.Sequential(bare[0], nn.ReLU(), bare[1], nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1, bias=False)).eval()
    rng = np.random.default_rng(0)
    pairs = [Pair(f"{n}", f"{n}", *rng.random((2, 3, 32, 32), np.float32)) for n in range(12)]
    built: list[int] = []

    def build(*arguments: Any) -> compressing.Built:
        made = honest(*arguments)
        built.append(made.artifact.size_bytes)
        return made

    honest = compressing.build
    monkeypatch.setattr(compressing, "build", build)
    foreseen: list[int] = []

    def sizes(*arguments: Any) -> int:
        foreseen.append(foresee(*arguments))
        return foreseen[-1]

    foresee = quantised_file.foreseen
    monkeypatch.setattr(compressing, "foreseen", sizes)
    options = CompressOptions(target_size=Size(share=0.5), bits=("int8",), calibration="minmax")
    settings = Settings(compress=options, verify=VerifyOptions(size=32), data=DataOptions(crop=32))
    compressing.compress(checkpoints.of_module(model), settings, images=splits.from_pairs(pairs, seed=0), out=tmp_path / "s")
    assert built == foreseen[-1:]
