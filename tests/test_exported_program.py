from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import lively

from qcompress import checkpoints
from qcompress.architectures.half_unet import HalfUNet
from qcompress.errors import CheckpointError
from qcompress.weights import read_weights


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    network = lively(HalfUNet(3, 8, 2, ghost=False))
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.export.save(torch.export.export(network, (torch.rand(1, 3, 16, 16),)), path)
    return path, network.state_dict()


def test_its_weights_are_read_and_recognised(program: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = program
    content = read_weights(path).content
    assert isinstance(content, dict)
    assert {name: tensor.tolist() for name, tensor in content.items()} == {name: t.tolist() for name, t in state.items()}
    assert checkpoints.load(path).architecture == "half-unet"


def changed(path: Path, target: Path, change: Any) -> Path:
    """The archive with the entry of one tensor changed."""
    data = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(data, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("_weights_config.json"):
                config = json.loads(content)
                change(next(iter(config["config"].values())))
                content = json.dumps(config).encode()
            archive.writestr(name, content)
    target.write_bytes(data.getvalue())
    return target


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(use_pickle=True),
        lambda entry: entry.update(path_name="../model.json"),
        lambda entry: entry["tensor_meta"].update(dtype=99),
        lambda entry: entry["tensor_meta"].update(sizes=[{"as_int": 2**40}]),
        lambda entry: entry["tensor_meta"].update(sizes=[{"as_int": -1}]),
        lambda entry: entry["tensor_meta"].update(storage_offset={"as_int": 2**62}),
        lambda entry: entry["tensor_meta"].update(sizes=[{"as_expr": "s0"}]),
        lambda entry: entry.pop("tensor_meta"),
    ],
)
def test_impossible_entries_are_refused(program: tuple[Path, Any], tmp_path: Path, change: Any) -> None:
    with pytest.raises(CheckpointError):
        read_weights(changed(program[0], tmp_path / "bad.pt2", change))


def test_an_archive_without_weights_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/archive_format", "pt2")
    with pytest.raises(CheckpointError, match=r"exported program \(\.pt2\) with 0 sets of weights"):
        read_weights(tmp_path / "a.pt2")
