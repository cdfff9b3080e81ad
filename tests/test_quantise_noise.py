"""Losses of single layers at other widths: predicted against a closed form, measured against passes made by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import lively
from torch import Tensor, nn

from qcompress.architectures.half_unet import HalfUNet
from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError, UsageError
from qcompress.metrics import METRICS, Metric
from qcompress.quantise import noise
from qcompress.quantise.exchanging import Exchange, Exchanging
from qcompress.quantise.layers import own_layers
from qcompress.quantise.noise import measure
from qcompress.quantise.ranges import observe
from qcompress.quantise.variants import Variant, predict
from qcompress.reconstruction import eliminated
from qcompress.reconstruction.calibration import TRUST
from qcompress.recover.moments import measure_moments
from qcompress.tracing import trace

PSNR = METRICS["psnr"](1)
WIDTHS = ("float32", "float16", "int8", "int4")


def pictures(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    found = lively(HalfUNet(3, 8, 2, ghost=False))
    found.out.weight.data *= 0.1  # type: ignore[union-attr, operator]
    return found


@pytest.fixture(scope="module")
def crops(model: nn.Module) -> CalibrationCrops:
    x = pictures(9, 3, 16)
    with torch.no_grad():
        return CalibrationCrops(x, model(x) + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)))


@torch.no_grad()
def test_predicted_is_the_squared_error_of_the_output() -> None:
    layer, x = nn.Conv2d(2, 3, 3, padding=1), pictures(12, 2, 24)
    model = nn.Sequential(layer)
    variants = {("0", width): Variant.of(model, "0", width, {"0": (0.0, 1.0)}) for width in ("int8", "int4")}
    found = predict(model, ["0"], CalibrationCrops(x, x), variants)
    for key, variant in variants.items():
        error = variant(x) - layer(x)
        torch.testing.assert_close(error.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)  # the bias is corrected
        assert found[key] == pytest.approx(float(error.square().sum()) / len(x), rel=0.1)  # projections are random


@torch.no_grad()
def test_measured_is_the_rise_of_the_loss_of_the_network_with_that_layer(model: nn.Module, crops: CalibrationCrops) -> None:
    layers = own_layers(model)
    found = measure(model, layers, WIDTHS, crops, PSNR)
    assert list(found) == list(layers)
    assert all(list(losses) == list(WIDTHS) and losses["float32"] == 0 for losses in found.values())
    assert all(0 < losses["float16"] < losses["int4"] for losses in found.values())

    ranges = observe(model, layers, crops)
    variants = {(name, width): Variant.of(model, name, width, ranges) for name in layers for width in ("int8", "int4")}
    predicted = predict(model, layers, crops, variants)
    whole, agreed = float(PSNR.per_image(model(crops.inputs), crops.targets).mean()), 0
    for (name, width), variant in variants.items():
        changed = copy.deepcopy(model)
        module = changed.get_submodule(name)
        module.weight, module.bias = variant.exchange.weight, variant.exchange.bias
        if variant.levels is not None:
            module.register_forward_pre_hook(variant.levels)
        loss = whole - float(PSNR.per_image(changed(crops.inputs), crops.targets).mean())
        if loss > 1e-3:
            assert found[name][width] == pytest.approx(loss, rel=1e-2)
            agreed += 1
        assert (name, width) in predicted
    assert agreed > len(layers)


def test_the_unit_is_that_of_pruned_groups(model: nn.Module, crops: CalibrationCrops) -> None:
    groups = trace(model, crops.inputs[:1])
    moments = measure_moments(model, groups.consumers, crops)
    ratio = eliminated(model, groups, crops, PSNR, moments).ratio
    assert ratio not in (0.0, 1.0)
    assert eliminated(model, groups, crops, PSNR, moments, calibrated=False).ratio == 1
    layers = ["dec.0.0", "out"]
    one, other = (measure(model, layers, WIDTHS, crops, PSNR, moments=moments, ratio=value) for value in (1.0, ratio))
    for name in layers:
        for width in WIDTHS:
            assert other[name][width] == pytest.approx(ratio * one[name][width])
    nearest = measure(model, layers, ("int4",), crops, PSNR)
    assert sum(one[name]["int4"] for name in layers) < sum(nearest[name]["int4"] for name in layers)


def test_losses_that_look_like_gains_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = {("a", "int8"): 2.0, ("a", "int4"): 6.0, ("b", "int8"): 2.0, ("b", "float16"): 1e-3}
    measured = {("a", "int8"): -1.0, ("a", "int4"): 1.0, ("b", "int8"): float("nan")}
    scale = 1.0 / 8.0
    assert noise._believed(predicted, measured) == {
        ("a", "int8"): 2 * scale / TRUST,
        ("a", "int4"): 1.0,
        ("b", "int8"): 2 * scale,
        ("b", "float16"): 1e-3 * scale,
    }


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.used(x)
        return found


def test_what_is_not_called_loses_nothing_and_what_cannot_be_is_refused() -> None:
    torch.manual_seed(1)
    x = pictures(8, 1, 8)
    crops = CalibrationCrops(x, x)
    found = measure(Idle(), ["used", "idle"], WIDTHS, crops, PSNR)
    assert found["idle"] == dict.fromkeys(WIDTHS, 0.0)
    assert found["used"]["int4"] > 0
    predicted = measure(Idle(), ["used"], WIDTHS, crops, PSNR, calibrated=False)
    assert predicted["used"]["int4"] > 0
    with pytest.raises(UsageError, match="width 'int3' is not known"):
        measure(Idle(), ["used"], ["int3"], crops, PSNR)
    broken = Metric("broken", "", True, lambda output, _: output.flatten(1).sum(1) * torch.nan, PSNR.loss)
    with pytest.raises(InputError, match="the loss by broken of the whole network"):
        measure(Idle(), ["used"], WIDTHS, crops, broken)


@torch.no_grad()
def test_exchanged_layers_are_computed_as_they_would_be_without_reuse(model: nn.Module) -> None:
    x, layers = pictures(5, 3, 16), own_layers(model)
    ranges = observe(model, layers, CalibrationCrops(x, x))
    passes, plain = Exchanging(model, x, 2), Exchanging(model, x, 2, limit=0)
    trials: list[tuple[str | None, Exchange | None]] = [(None, None)]
    trials += [(name, Variant.of(model, name, width, ranges).exchange) for name in layers for width in ("int8", "int4")]
    trials += [(None, None)]
    outputs = [passes(*trial) for trial in trials]
    assert passes.reuses
    assert not plain.reuses
    for found, trial in zip(outputs, trials, strict=True):
        assert all(map(torch.equal, found, plain(*trial)))
    assert torch.equal(torch.cat(outputs[-1]), torch.cat(outputs[0]))
    assert not torch.equal(torch.cat(outputs[1]), torch.cat(outputs[0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_finds_the_same_losses(model: nn.Module, crops: CalibrationCrops) -> None:
    layers = own_layers(model)
    here = measure(model, layers, WIDTHS, crops, PSNR)
    there = measure(copy.deepcopy(model).cuda(), layers, WIDTHS, crops.to("cuda"), PSNR)
    for name in layers:
        assert there[name] == pytest.approx(here[name], rel=0.05, abs=1e-4)
