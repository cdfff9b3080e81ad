"""A slim network in a loop of the user's own: it trains, goes back into its folder whole or not at all, and is written anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import qcompress
from qcompress import checkpoints, plans, slim_folder, tracing
from qcompress.errors import CheckpointError, OutputError, PlanError
from qcompress.exporters.runtime import open_onnx
from qcompress.plans import Plan
from qcompress.selection import Selection

EXAMPLE = Path(__file__).parent.parent / "examples" / "train_slim.py"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """The slim folder of the shared checkpoint without a quarter of its units."""
    found = checkpoints.load(checkpoint)
    groups = tracing.trace(found.model, torch.zeros(1, 3, 16, 16))
    selection = Selection(groups.space, tuple(range(0, len(groups.space), 4)))
    chosen = {"budget": "filters", "sparsity": 0.25, "objective": "hybrid", "backend": "profile", "seed": 0}
    plan = Plan.of(slim_folder.source_of(found), groups, selection, **chosen)  # type: ignore[arg-type]
    slim_folder.save(tmp_path / "net.slim", plan, slim_folder.apply(plan, found))
    return tmp_path / "net.slim"


def one_step(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    loss = (model(torch.rand(2, 3, 16, 16, generator=generator)) - 0.5).square().mean()
    torch.autograd.backward(loss)
    optimiser.step()


def test_trained_weights_come_back(folder: Path) -> None:
    model, before = qcompress.load(folder), qcompress.load(folder).state_dict()
    plan = plans.read(folder / "plan.json")
    one_step(model.train())  # BatchNorm statistics move, too
    qcompress.save(model, folder)
    again = qcompress.load(folder).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in again.items())
    assert plans.read(folder / "plan.json") == plan
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "plan.json"]


def test_a_bias_may_be_added(folder: Path) -> None:
    model = qcompress.load(folder)
    name, layer = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.bias is None)
    layer.bias = nn.Parameter(torch.full((layer.out_channels,), 0.5))
    qcompress.save(model, folder)
    assert torch.equal(qcompress.load(folder).get_submodule(name).bias, layer.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["another network", "diverged", "in the way"])
def test_what_does_not_belong_there_leaves_the_folder_as_it_was(
    wrong: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, error = qcompress.load(folder), {"another network": PlanError, "diverged": CheckpointError}.get(wrong, OutputError)
    before = (folder / "model.safetensors").read_bytes()
    if wrong == "another network":
        model = nn.Sequential(nn.Conv2d(3, 3, 3))
    if wrong == "diverged":
        next(model.parameters()).data[0] = torch.nan
    if wrong == "in the way":

        def full(path: Path, data: bytes) -> int:
            raise OSError(28, "no space")

        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(error):
        qcompress.save(model, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert len(list(folder.iterdir())) == 2


@pytest.mark.slow
def test_the_example_trains_saves_and_exports(folder: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (72, 80, 3), dtype=np.uint8)).save(pictures / f"{number}.png")
    before = qcompress.load(folder)
    command = [sys.executable, str(EXAMPLE), str(folder), "--photographs", str(pictures), "--steps", "3", "--rate", "0.001"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 3 of 3" in done.stdout
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        old, new = before(x), qcompress.load(folder)(x)
    written = torch.from_numpy(open_onnx(folder / "model.onnx")(x.numpy()))
    assert float((new - old).abs().max()) > 1e-3
    assert torch.allclose(written, new, atol=1e-4)
