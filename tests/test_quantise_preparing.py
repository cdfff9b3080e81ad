"""Equalisation, weights in sequence, and what the judge keeps."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from conftest import lively
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops, SelectionCrops
from qcompress.errors import UsageError
from qcompress.metrics import METRICS
from qcompress.quantise import fold, prepare, simulated
from qcompress.quantise.equalisation import equalise
from qcompress.quantise.grids import LEVELS
from qcompress.quantise.layers import own_layers
from qcompress.quantise.ranges import observe
from qcompress.quantise.sequence import Way, put_on_grids, rounded_to_nearest
from qcompress.quantise.trials import harmless
from qcompress.surgery import relative_difference
from qcompress.tracing import trace

PSNR = METRICS["psnr"](1)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Mixed(nn.Module):
    """Every kind of layer, and one place where no scale can pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.relu = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.deep, self.slope = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.PReLU(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.down, self.up = nn.Conv2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 8, 2, 2)
        self.gate, self.last = nn.Conv2d(8, 5, 1), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope(self.deep(self.relu(self.norm(self.first(x)))))
        y = self.up(self.relu(self.down(self.grouped(y)))) + y
        found: Tensor = x + self.last(torch.sigmoid(self.gate(y)))
        return found


def textured(seed: int, count: int = 10, size: int = 16) -> tuple[Tensor, Tensor]:
    """(N, 3, size, size) smooth pictures with noise, and without."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 3, size // 4, size // 4, generator=generator)
    clean = nn.functional.interpolate(rough, scale_factor=4.0, mode="bilinear")
    return clean + 0.05 * torch.randn(clean.shape, generator=generator), clean


@pytest.fixture(scope="module")
def model() -> nn.Module:
    found = lively(Mixed())
    found.first.weight.data *= torch.logspace(-2, 1, 8)[:, None, None, None]  # type: ignore[union-attr, operator]
    found.last.weight.data *= 0.1  # type: ignore[union-attr, operator]
    return found


@pytest.fixture(scope="module")
def calibration(model: nn.Module) -> CalibrationCrops:
    x, _ = textured(0)
    return CalibrationCrops(x, model(x))


@pytest.fixture(scope="module")
def judging(model: nn.Module) -> SelectionCrops:
    x, _ = textured(1)
    return SelectionCrops(x, model(x))


def test_equalised_channels_have_like_ranges_and_the_function_stays(model: nn.Module, calibration: CalibrationCrops) -> None:
    groups, folded = trace(model, calibration.inputs[:1]), fold(model, calibration.inputs[:1])
    layers = own_layers(model)
    for start in (model, folded):
        found = equalise(start, groups, layers, calibration, strength=1.0)
        assert set(found.left) == {"gate"}
        assert {"first", "down"} <= set(found.scaled)
        assert relative_difference(found.model(calibration.inputs), model(calibration.inputs)) < 1e-5

    def spread(network: nn.Module) -> float:
        tops: list[Tensor] = []
        handle = network.get_submodule("grouped").register_forward_pre_hook(
            lambda _, args: tops.append(args[0].abs().amax((0, 2, 3)))
        )
        network(calibration.inputs)
        handle.remove()
        return float(tops[0].amax() / tops[0].amin().clamp(min=1e-9))

    assert spread(folded) > 50
    assert spread(found.model) < spread(folded) / 3  # a unit has a channel in each division


def test_changes_that_alter_the_function_are_found_among_others() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.rand(3, 4)

    def nothing(network: nn.Module) -> None:
        network[0].weight.data += 0  # type: ignore[index]

    def something(network: nn.Module) -> None:
        network[1].weight.data += 0.1  # type: ignore[index]

    before = copy.deepcopy(model.state_dict())
    assert harmless(model, [nothing, something, nothing, nothing, something], x) == [0, 2, 3]
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


@pytest.mark.parametrize("width", ["int8", "int4"])
def test_in_sequence_weights_lie_on_their_grids_and_lose_less(
    model: nn.Module, calibration: CalibrationCrops, judging: SelectionCrops, width: str
) -> None:
    folded = fold(model, calibration.inputs[:1])
    ranges = observe(folded, own_layers(folded), calibration)
    widths = dict.fromkeys(ranges, width) | {"grouped": "float16", "last": "float32"}
    found = put_on_grids(folded, widths, ranges, calibration, Way())
    assert set(found.scales) == set(ranges) - {"grouped", "last"}
    for name, scale in found.scales.items():
        weight = found.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        levels = weight.transpose(0, 1) if name == "up" else weight
        levels = levels.flatten(1) / scale[:, None]
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert LEVELS[width][0] <= levels.round().min()
        assert levels.round().max() <= LEVELS[width][1]
    halves = found.model.get_submodule("grouped").weight
    assert torch.equal(halves, halves.half().float())  # type: ignore[arg-type]

    def error(way: Way | None) -> float:
        one = rounded_to_nearest(folded, widths) if way is None else put_on_grids(folded, widths, ranges, calibration, way)
        outputs = simulated(one.model, widths, ranges, scales=one.scales)(judging.inputs)
        return float((outputs - judging.targets).square().mean())

    nearest, corrected, all_ = error(None), error(Way(compensating=False, learning=False)), error(Way())
    assert all_ < corrected < nearest
    assert all_ < 0.7 * nearest
    again = put_on_grids(folded, widths, ranges, calibration, Way(), limit=0)
    assert all(map(torch.equal, found.model.state_dict().values(), again.model.state_dict().values()))


def test_prepared_networks_are_near_the_whole_one(
    model: nn.Module, calibration: CalibrationCrops, judging: SelectionCrops
) -> None:
    groups, before = trace(model, calibration.inputs[:1]), copy.deepcopy(model.state_dict())
    widths = dict.fromkeys(own_layers(model), "int8") | {"down": "int4"}
    found = prepare(model, widths, calibration.inputs[:1], calibration, PSNR, judging, groups=groups)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert found.steps[0].name == "to nearest"
    assert found.steps[2].name == "in sequence"
    assert found.steps[2].kept
    assert len(found.steps) == 4
    best = max(step.value for step in found.steps)
    assert best == max(step.value for step in found.steps if step.kept)
    assert set(found.ranges) == set(widths) - {"down"}
    assert set(found.scales) == set(widths)
    assert found.notes[-1] == "no scale passes through the groups gate: their channels stay as they are"
    outputs = simulated(found.model, widths, found.ranges, scales=found.scales)(judging.inputs)
    assert float(PSNR.per_image(outputs, judging.targets).mean()) == pytest.approx(best, abs=1e-4)


def test_a_step_that_the_judge_does_not_like_is_dropped(model: nn.Module, calibration: CalibrationCrops) -> None:
    folded = fold(model, calibration.inputs[:1])
    widths = dict.fromkeys(own_layers(model), "int4")
    nearest = rounded_to_nearest(folded, widths)
    wanted = CalibrationCrops(
        calibration.inputs, simulated(nearest.model, widths, {}, scales=nearest.scales)(calibration.inputs)
    )
    found = prepare(model, widths, calibration.inputs[:1], calibration, PSNR, wanted)
    assert [step.kept for step in found.steps] == [True, False]
    assert found.notes[-1].endswith("not kept")
    assert all(map(torch.equal, nearest.model.state_dict().values(), found.model.state_dict().values()))


def test_it_needs_crops_and_widths_that_fit(model: nn.Module, calibration: CalibrationCrops) -> None:
    one = CalibrationCrops(calibration.inputs[:1], calibration.targets[:1])
    with pytest.raises(UsageError, match="1 calibration crop, expected at least 2"):
        prepare(model, {"first": "int8"}, one.inputs, one, PSNR)
    with pytest.raises(UsageError, match="layer nine is not there"):
        prepare(model, {"nine": "int8"}, one.inputs, calibration, PSNR)
