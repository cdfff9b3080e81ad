"""BatchNorm folded where that changes nothing, left alone where it would."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from conftest import lively
from test_recover import noise, randomised
from torch import Tensor, nn
from torch.nn import functional

from qcompress.architectures.half_unet import HalfUNet
from qcompress.quantise import fold
from qcompress.surgery import relative_difference


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, affine=False), (2, 4, 5, 5)),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), (2, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, 2, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (5, 4)),
    ],
)
def test_a_layer_does_what_its_batchnorm_did(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    model = randomised(nn.Sequential(copy.deepcopy(layer), copy.deepcopy(norm)))
    before, x = copy.deepcopy(model), noise(*shape)
    folded = fold(model, x)
    assert not norms(folded)
    assert relative_difference(folded(x), model(x)) < 1e-12
    assert all(map(torch.equal, before.state_dict().values(), model.state_dict().values()))


def test_a_network_keeps_its_names_and_its_function() -> None:
    model, x = lively(HalfUNet(3, 8, 2)), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    folded = fold(model, x[:1])
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in model.named_modules()]
    assert not norms(folded)
    assert relative_difference(folded(x), model(x)) < 1e-5


class Shared(nn.Module):
    """`norm` cannot be folded: other things are done with what `conv` gives, or with what `norm` gets."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.other, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "activated":
            y = self.norm(functional.relu_(y))
        elif self.kind == "used twice":
            y = self.norm(y) + y
        elif self.kind == "first":
            y = self.norm(x) + y
        elif self.kind == "normalises others":
            y = self.norm(y) + self.norm(x)
        else:
            y = self.norm(y) + self.conv(2 * x)
        found: Tensor = self.last(self.other(y))
        return found


@pytest.mark.parametrize("kind", ["activated", "used twice", "first", "normalises others", "called twice"])
def test_what_others_need_stays_while_the_rest_is_folded(kind: str) -> None:
    model, x = randomised(Shared(kind)), noise(2, 3, 6, 6)
    folded = fold(model, x)
    assert norms(folded) == ["norm"]
    assert relative_difference(folded(x), model(x)) < 1e-12


def test_statistics_of_the_batch_are_no_layer_to_fold() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), torch.rand(2, 3, 4, 4)
    assert norms(fold(model, x)) == ["1"]
