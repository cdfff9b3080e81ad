from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from qcompress import checkpoints, plans, slim_folder
from qcompress.architectures.dncnn import build_dncnn
from qcompress.architectures.unet import build_unet
from qcompress.checkpoints import Checkpoint
from qcompress.errors import CheckpointError, OutputError, PlanError
from qcompress.plans import Plan, PlanCut, PlanGroup

DNCNN_CUTS = {
    "dncnn.0": PlanCut(kept_out=(0, 2, 3), kept_in=None),
    "dncnn.2": PlanCut(kept_out=(1, 4), kept_in=(0, 2, 3)),
    "dncnn.3": PlanCut(kept_out=(1, 4), kept_in=None),
    "dncnn.5": PlanCut(kept_out=None, kept_in=(1, 4)),
}
UNET_CUTS = {
    "u0": PlanCut(kept_out=(1, 3), kept_in=None),
    "d0.0": PlanCut(kept_out=(0, 1, 2), kept_in=(1, 3, 4, 5, 6, 7)),
    "d0.1": PlanCut(kept_out=(0, 1, 2), kept_in=None),
    "d0.3": PlanCut(kept_out=None, kept_in=(0, 1, 2)),
}


def saved(model: nn.Module, path: Path) -> Path:
    """Reproducible weights for `model`, with running statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    torch.save(state, path)
    return path


def plan_of(checkpoint: Checkpoint, cuts: dict[str, PlanCut], **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "tool": "qcompress test",
        "checkpoint": slim_folder.source_of(checkpoint),
        "groups": {"g": PlanGroup(size=5, pruned=(1, 4))},
        "cuts": cuts,
        "example_shape": (1, checkpoint.channels, 8, 8),
        "budget": "filters",
        "sparsity": 0.4,
        "objective": "hybrid",
        "backend": "neal",
        "seed": 0,
    }
    return Plan(**fields | changes)


@pytest.fixture
def dncnn(tmp_path: Path) -> Checkpoint:
    model = build_dncnn(channels=1, depth=3, width=5, batchnorm=True, bias=[False] * 3, container="dncnn")
    return checkpoints.load(saved(model, tmp_path / "dncnn.pt"))


@pytest.fixture
def unet(tmp_path: Path) -> Checkpoint:
    return checkpoints.load(saved(build_unet(widths=[4, 6]), tmp_path / "unet.pt"))


def image(checkpoint: Checkpoint) -> torch.Tensor:
    return torch.rand(2, checkpoint.channels, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "cuts"), [("dncnn", DNCNN_CUTS), ("unet", UNET_CUTS), ("unet", {})])
def test_round_trip(request: pytest.FixtureRequest, tmp_path: Path, name: str, cuts: dict[str, PlanCut]) -> None:
    checkpoint: Checkpoint = request.getfixturevalue(name)
    before = {key: tensor.clone() for key, tensor in checkpoint.model.state_dict().items()}
    plan = plan_of(checkpoint, cuts)
    slim = slim_folder.apply(plan, checkpoint)
    slim_folder.save(tmp_path / "x.slim", plan, slim)
    again = slim_folder.load(tmp_path / "x.slim")
    assert sorted(path.name for path in (tmp_path / "x.slim").iterdir()) == ["model.safetensors", "plan.json"]
    assert plans.read(tmp_path / "x.slim" / "plan.json") == plan
    assert not again.training
    x = image(checkpoint)
    with torch.no_grad():
        assert torch.equal(again(x), slim(x))
        assert torch.equal(again(x), checkpoint.model(x)) == (not cuts)
    for key, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_biases_that_repair_added_come_back(tmp_path: Path, dncnn: Checkpoint) -> None:
    plan = plan_of(dncnn, DNCNN_CUTS)
    slim = slim_folder.apply(plan, dncnn)
    last = slim.get_submodule("dncnn.5")
    last.bias = nn.Parameter(torch.tensor([0.25]))
    slim_folder.save(tmp_path / "x.slim", plan, slim)
    again = slim_folder.load(tmp_path / "x.slim")
    with torch.no_grad():
        assert torch.equal(again(image(dncnn)), slim(image(dncnn)))
    assert again.get_submodule("dncnn.0").bias is None


def test_a_file_of_any_name_can_be_recorded(tmp_path: Path) -> None:
    checkpoint = checkpoints.load(saved(build_unet(widths=[4, 6]), tmp_path / "a\\b\n.pt"))
    assert slim_folder.source_of(checkpoint).file == "a_b_.pt"


def test_another_checkpoint_is_refused(tmp_path: Path, dncnn: Checkpoint, unet: Checkpoint) -> None:
    with pytest.raises(PlanError, match=r"the plan is for dncnn\.pt .*, got unet\.pt"):
        slim_folder.apply(plan_of(dncnn, DNCNN_CUTS), unet)


@pytest.mark.parametrize(
    "cuts",
    [
        {"dncnn.9": PlanCut(kept_out=(0,), kept_in=None)},
        {"dncnn.0": PlanCut(kept_out=(0, 99), kept_in=None)},
        {"dncnn.1": PlanCut(kept_out=(0,), kept_in=None)},
    ],
)
def test_cuts_that_the_network_cannot_take(tmp_path: Path, dncnn: Checkpoint, cuts: dict[str, PlanCut]) -> None:
    plan = plan_of(dncnn, cuts)
    with pytest.raises(PlanError):
        slim_folder.apply(plan, dncnn)
    slim_folder.save(tmp_path / "x.slim", plan, dncnn.model)
    with pytest.raises(PlanError):
        slim_folder.load(tmp_path / "x.slim")


def test_weights_of_another_plan(tmp_path: Path, dncnn: Checkpoint) -> None:
    plan = plan_of(dncnn, DNCNN_CUTS)
    folder = tmp_path / "x.slim"
    slim_folder.save(folder, plan, slim_folder.apply(plan, dncnn))
    plans.write(plan_of(dncnn, DNCNN_CUTS, seed=1), folder / "plan.json")
    with pytest.raises(PlanError, match="not the plan that"):
        slim_folder.load(folder)
    slim_folder.save(folder, plan, dncnn.model)
    with pytest.raises(PlanError, match=r"does not fit its plan: of another shape: dncnn\.0\.weight"):
        slim_folder.load(folder)


def test_only_safetensors_is_read(tmp_path: Path, dncnn: Checkpoint) -> None:
    plan = plan_of(dncnn, DNCNN_CUTS)
    slim_folder.save(tmp_path, plan, slim_folder.apply(plan, dncnn))
    torch.save(dncnn.model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        slim_folder.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        slim_folder.load(tmp_path)


OWN = """
from pathlib import Path
from torch import nn
Path("imported").touch()
def network(width):
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))
"""


def test_a_plan_alone_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    torch.save(model.state_dict(), "own.pt")
    Path("own_slim_network.py").write_text(OWN)
    checkpoint = checkpoints.load("own.pt", arch="own_slim_network:network", arch_args={"width": 4})
    cuts = {"0": PlanCut(kept_out=(1, 2), kept_in=None), "2": PlanCut(kept_out=None, kept_in=(1, 2))}
    plan = plan_of(checkpoint, cuts)
    slim = slim_folder.apply(plan, checkpoint)
    slim_folder.save("own.slim", plan, slim)
    Path("imported").unlink()
    monkeypatch.delitem(__import__("sys").modules, "own_slim_network")
    with pytest.raises(PlanError, match="not run unasked") as caught:
        slim_folder.load("own.slim")
    assert "own_slim_network:network" in str(caught.value.hint)
    assert not Path("imported").exists()
    again = slim_folder.load("own.slim", arch="own_slim_network:network")
    with torch.no_grad():
        assert torch.equal(again(image(checkpoint)), slim(image(checkpoint)))


def test_nothing_is_half_written(tmp_path: Path, dncnn: Checkpoint) -> None:
    (tmp_path / "x.slim" / "plan.json").mkdir(parents=True)
    with pytest.raises(OutputError, match="it is a folder"):
        slim_folder.save(tmp_path / "x.slim", plan_of(dncnn, {}), dncnn.model)
    assert [path.name for path in (tmp_path / "x.slim").iterdir()] == ["plan.json"]


def test_the_metadata_names_the_plan(tmp_path: Path, dncnn: Checkpoint) -> None:
    plan = plan_of(dncnn, {})
    slim_folder.save(tmp_path, plan, dncnn.model)
    data = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"plan_sha256": plan.sha256}
    assert safetensors.torch.load(data).keys() == dncnn.model.state_dict().keys()
