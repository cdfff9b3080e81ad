from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import lively
from torch import Tensor, nn

import qcompress
from qcompress import checkpoints
from qcompress.errors import ArchitectureError, DataError, UsageError
from qcompress.settings import RefineOptions, SearchOptions, Settings, VerifyOptions

QUICK = Settings(recover="none", refine=RefineOptions(0), verify=VerifyOptions(max_seconds=0.2))
EXAMPLE = torch.zeros(1, 3, 32, 32)


def denoiser() -> nn.Module:
    return lively(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)))


def pairs(count: int = 8) -> tuple[Tensor, Tensor]:
    clean = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))), clean


@pytest.mark.slow
def test_a_live_module_is_pruned_and_stays_as_it_is(tmp_path: Path) -> None:
    module = denoiser().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    out = tmp_path / "own.slim"
    result = qcompress.prune(module, EXAMPLE, QUICK, data=pairs(), sparsity=0.5, out=out)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training
    assert result.folder == out
    assert result.model[0].out_channels == 4  # type: ignore[index]
    assert any("the dense network is worse than its input" in note for note in result.report.notes)  # it was never trained
    loaded = qcompress.load(out, into=denoiser())
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))


@pytest.mark.slow
def test_without_a_folder_it_writes_to_a_temporary_one() -> None:
    result = qcompress.prune(denoiser(), EXAMPLE, QUICK, data=pairs())
    assert (result.folder / "plan.json").is_file()
    assert result.folder.name == "Sequential.slim"


@pytest.mark.slow
def test_labels_make_a_classifier(tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32), np.uint8)
    data = (images, np.arange(16) % 4)
    result = qcompress.prune(lively(nn.Sequential(*layers)), EXAMPLE, QUICK, data=data, out=tmp_path / "c", metric="top1")
    assert result.report.metric.name == "top1"


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        ((torch.zeros(1, 3, 32, 16),), None, "H = W"),
        (((EXAMPLE, EXAMPLE),), None, "2 inputs"),
        ((), None, "the example is NoneType"),
        ((EXAMPLE, EXAMPLE), None, "Tensor given, expected Settings"),
        ((EXAMPLE,), 3, "data is int"),
        ((EXAMPLE,), (1, 2, 3), "3 parts"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[Any, ...], data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        qcompress.prune(denoiser(), *arguments, data=data)


def test_wrong_data_are_named() -> None:
    noisy, clean = pairs()
    for data in ((noisy, clean[:3]), (noisy[0], clean), (noisy, clean[:, 0, 0, 0]), (noisy / 0, clean)):
        with pytest.raises(DataError):
            qcompress.prune(denoiser(), EXAMPLE, QUICK, data=data)


def test_unknown_settings_and_failing_networks_are_named() -> None:
    with pytest.raises(UsageError, match="no setting 'sparcity'"):
        qcompress.prune(denoiser(), EXAMPLE, sparcity=0.5)
    with pytest.raises(ArchitectureError, match="fails on the example"):
        qcompress.prune(denoiser(), torch.zeros(1, 4, 32, 32), data=pairs())


@pytest.mark.slow
def test_a_path_as_before(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    settings = Settings(recover="none", refine=RefineOptions(0), verify=VerifyOptions(max_seconds=0.2, size=32))
    with pytest.raises(UsageError, match="noise"):
        qcompress.prune(checkpoint, settings, data=images, out=tmp_path / "out")
    assert qcompress.prune(checkpoint, settings, data=pairs(), out=tmp_path / "out").folder == tmp_path / "out"


@pytest.mark.slow
def test_apply_knows_what_the_plan_was_traced_with(checkpoint: Path, tmp_path: Path) -> None:
    settings = Settings(recover="none", refine=RefineOptions(0), verify=VerifyOptions(max_seconds=0.2, size=32))
    names = [layer.name for layer in qcompress.trace(checkpoints.load(checkpoint).model, EXAMPLE).layers]
    search = SearchOptions(ignore=(names[0],), floor=2)
    first = qcompress.prune(checkpoint, replace(settings, search=search), out=tmp_path / "a")
    again = qcompress.apply(tmp_path / "a", checkpoint, replace(settings, search=SearchOptions()), out=tmp_path / "b")
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(first.model(x), again.model(x))
    assert '"floor": 2' in (tmp_path / "a" / "plan.json").read_text()
    assert f'"{names[0]}"' in (tmp_path / "a" / "plan.json").read_text()


def test_a_network_of_two_inputs_can_be_traced() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(1, 6, 1), nn.Conv2d(6, 3, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.out(torch.relu(self.a(x) + self.b(y)))  # type: ignore[no-any-return]

    groups = qcompress.trace(Two(), (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)))
    assert [group.size for group in groups.groups] == [6]
