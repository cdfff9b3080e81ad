"""What ships: a checkpoint trained well enough that pruning hurts, and photographs that belong to nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qcompress import checkpoints
from qcompress.cli.main import main
from qcompress.data import splits
from qcompress.verify import measure

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_reference_checkpoint_denoises_the_shipped_photographs() -> None:
    reference = checkpoints.load("reference")
    assert reference.architecture == "half-unet"
    assert (reference.channels, reference.stride) == (3, 16)
    images = splits.load(None, channels=3, stride=16, seed=0)
    noisy = 20.17  # dB of sigma 25 before clipping: 20 log10(255 / 25)
    assert measure(reference.model, images.report).mean() > noisy + 9


@pytest.mark.slow
def test_reference_by_name_prunes_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "reference", "-s", "0.25", "--refine-evals", "0", "--recover", "bias", "--size", "64", "-q"]) == 0
    report = json.loads((tmp_path / "reference.slim" / "report.json").read_text())
    assert report["units"] == {**report["units"], "total": 384, "pruned": 96}
    assert report["metric"]["dense"] > report["metric"]["slim"]


def test_every_shipped_file_has_its_licence_beside_it() -> None:
    folder = ROOT / "qcompress" / "reference"
    licences = (folder / "LICENSES.md").read_text()
    for path in (*folder.glob("photographs/*.png"), *folder.glob("*.safetensors")):
        scene = path.stem.rsplit("_", 1)[0] if path.suffix == ".png" else path.name
        assert scene in licences, path.name
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 4_000_000
