"""Static repair against numpy's least squares on the rows written out, and on networks whose removed channels are redundant."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from test_recover import crops, noise, randomised
from torch import nn

from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError
from qcompress.exporters import EXPORTERS
from qcompress.exporters.runtime import open_onnx
from qcompress.groups import Cut
from qcompress.recover import moments as moments_of
from qcompress.recover.design import Affine, divisions, output_rows, places_of, rows, weight_matrix
from qcompress.recover.moments import SecondMoments, measure_moments
from qcompress.recover.static import StaticRepair
from qcompress.selection import Selection
from qcompress.surgery import SlicedShell, relative_difference, slim
from qcompress.tracing import trace


def owners(layer: Affine) -> np.ndarray:
    return np.arange(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def measured(layer: Affine, seen: CalibrationCrops, largest: int = moments_of.LARGEST) -> dict[str, SecondMoments]:
    return measure_moments(nn.Sequential(layer), {"0": owners(layer)}, seen, positions=10**9, largest=largest)


LAYERS: list[tuple[Affine, tuple[int, ...], tuple[int, ...]]] = [  # layer, its input, the channels kept
    (nn.Conv2d(4, 6, 3, padding=1), (4, 7, 6), (0, 2, 3)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 1), bias=False), (4, 19, 18), (1, 2)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 7, 6), (1, 3)),
    (nn.ConvTranspose2d(4, 6, 2, 2), (4, 5, 3), (0, 3)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, dilation=2, bias=False), (4, 5, 3), (0, 1)),
    (nn.Conv2d(8, 6, 3, padding=1, groups=2), (8, 9, 8), (0, 2, 4, 6)),
    (nn.ConvTranspose2d(8, 6, (3, 4), stride=(1, 3), padding=(2, 3), groups=2), (8, 9, 9), (1, 5)),
    (nn.Linear(4, 6), (9, 4), (0, 1, 3)),
    (nn.Linear(4, 6, bias=False), (5, 9, 4), (2,)),
    (nn.Conv1d(4, 6, 3, padding=1), (4, 40), (1, 2)),
]


@torch.no_grad()
@pytest.mark.parametrize(("layer", "shape", "kept"), LAYERS)
def test_it_is_least_squares_on_the_rows(layer: Affine, shape: tuple[int, ...], kept: tuple[int, ...]) -> None:
    layer = copy.deepcopy(layer)
    randomised(layer)
    x = noise(6, *shape)
    found = StaticRepair(nn.Sequential(layer), measured(layer, CalibrationCrops(x, x)), ridge=1e-12)("0", Cut(None, kept))
    assert found is not None

    output = layer(x).detach()
    seen = rows(layer, x, output, torch.arange(places_of(layer, output)))
    g, each = divisions(layer), len(owners(layer)) // divisions(layer)
    taps = seen.shape[2] // each
    columns = [c * taps + tap for c in kept if c < each for tap in range(taps)]
    wanted = output_rows(layer, output, torch.arange(places_of(layer, output))).reshape(seen.shape[1], g, -1)
    slimmed = sliced(layer, kept)
    slimmed.weight, slimmed.bias = (nn.Parameter(tensor) for tensor in found)
    matrix = weight_matrix(slimmed)
    for division in range(g):
        explicit = np.concatenate((seen[division][:, columns], np.ones((seen.shape[1], 1))), 1)
        exact = np.linalg.lstsq(explicit, wanted[:, division], rcond=None)[0]
        np.testing.assert_allclose(matrix[division], exact, rtol=1e-5, atol=1e-6)


def sliced(layer: Affine, kept: tuple[int, ...]) -> Affine:
    child = slim(nn.Sequential(layer), {"0": Cut(None, kept)}).get_submodule("0")
    assert isinstance(child, Affine)
    return child


def test_the_outputs_that_go_are_left_out() -> None:
    layer = nn.Conv2d(8, 6, 3, padding=1, groups=2)
    randomised(layer)
    x = noise(6, 8, 9, 8)
    repair = StaticRepair(nn.Sequential(layer), measured(layer, CalibrationCrops(x, x)))
    whole, part = repair("0", Cut(None, (0, 2, 4, 6))), repair("0", Cut((0, 2, 3, 5), (0, 2, 4, 6)))
    assert whole is not None
    assert part is not None
    assert all(torch.equal(a[[0, 2, 3, 5]], b) for a, b in zip(whole, part, strict=True))


def test_there_is_nothing_to_say_of_layers_that_keep_their_inputs_or_are_not_known() -> None:
    layer, x = nn.Conv2d(4, 6, 3).double(), noise(2, 4, 9, 8)
    repair = StaticRepair(nn.Sequential(layer), measured(layer, CalibrationCrops(x, x)))
    assert repair("0", Cut((0, 1), None)) is None
    assert StaticRepair(nn.Sequential(layer), {})("0", Cut(None, (0, 1))) is None


class Own(nn.Conv2d):
    """A convolution whose constructor takes other arguments."""

    def __init__(self, outputs: int) -> None:
        super().__init__(6, outputs, 3, padding=1, bias=False)


def twins(second: nn.Module) -> nn.Sequential:
    """Channels 1 and 4 of the first layer are the same; nor has `second` learned that."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), second, nn.ReLU(), nn.Conv2d(5, 3, 1))
    randomised(model)
    with torch.no_grad():
        first = model[0]
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None
        first.weight[4], first.bias[4] = first.weight[1], first.bias[1]
    return model


@pytest.mark.parametrize(
    "second",
    [
        nn.Conv2d(6, 5, 3, padding=1),
        nn.Conv2d(6, 5, 3, stride=2, dilation=2, bias=False),
        nn.ConvTranspose2d(6, 5, 3, 2),
        Own(5),
    ],
)
@pytest.mark.parametrize("largest", [moments_of.LARGEST, 1])
@torch.no_grad()
def test_without_one_of_two_equal_channels_the_output_is_the_same(second: nn.Module, largest: int) -> None:
    model = twins(copy.deepcopy(second))
    seen = crops(8, 3, 16, 16)
    groups = trace(model, seen.inputs[:2])
    selection = Selection(groups.space, (4,))
    cuts = groups.cuts(selection)
    repair = StaticRepair(model, measure_moments(model, groups.consumers, seen, largest=largest), ridge=1e-10)
    cut = slim(model, cuts)
    dense = model(seen.inputs)
    assert relative_difference(cut(seen.inputs), dense) > 1e-2
    repair.repair(cut, cuts)
    assert relative_difference(cut(seen.inputs), dense) < 1e-6
    shell = SlicedShell(model, repair).cut(cuts)
    assert torch.equal(shell(seen.inputs), cut(seen.inputs))


def test_shared_moments_are_the_fine_ones_under_one_tap_and_sane_under_nine() -> None:
    layer, seen = nn.Conv2d(4, 6, 1), crops(4, 4, 9, 8)
    randomised(layer)
    repairs = [StaticRepair(nn.Sequential(layer), measured(layer, seen, largest=largest)) for largest in (1, 100)]
    one, other = (repair("0", Cut(None, (0, 2))) for repair in repairs)
    assert one is not None
    assert other is not None
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@torch.no_grad()
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(6, 5, 3, padding=1), nn.ConvTranspose2d(6, 5, 4, 2, 1), nn.Conv2d(6, 5, 3, padding=1, bias=False)]
)
def test_shared_moments_make_up_for_channels_that_are_combinations_of_others(layer: Affine) -> None:
    layer = copy.deepcopy(layer)
    randomised(layer)
    x = noise(6, 6, 12, 12)
    x[:, 4:] = torch.einsum("nchw,cd->ndhw", x[:, :4], noise(4, 2, seed=3)) + 0.7  # what is constant goes into the bias
    seen = CalibrationCrops(x, x)
    shared, fine = (measured(layer, seen, largest=largest) for largest in (10, 1000))
    assert (shared["0"].shared, fine["0"].shared) == (layer.weight[0, 0].numel(), 1)
    output, cut = layer(x), sliced(layer, (0, 1, 2, 3))
    inside = (..., slice(2, -2), slice(2, -2))
    before = relative_difference(cut(x[:, :4])[inside], output[inside])
    found = StaticRepair(nn.Sequential(layer), shared)("0", Cut(None, (0, 1, 2, 3)))
    assert found is not None
    cut.weight, cut.bias = (nn.Parameter(tensor) for tensor in found)
    assert before > 0.1
    left = cut(x[:, :4])[inside] - output[inside]
    if isinstance(layer, nn.ConvTranspose2d):  # under a stride the constant part differs from place to place: right on average
        left = left.mean((0, 2, 3))
    assert float(left.abs().max() / output[inside].abs().max()) < 1e-2


@torch.no_grad()
def test_a_wide_linear_layer_behind_a_flatten_shares_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    first = nn.Conv2d(3, 6, 3, padding=1)
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4))
    randomised(model)
    assert first.bias is not None
    first.weight[4], first.bias[4] = first.weight[1], first.bias[1]
    seen = crops(8, 3, 8, 8)
    groups = trace(model, seen.inputs[:2])
    monkeypatch.setattr(moments_of, "WIDEST", 100)
    found = measure_moments(model, groups.consumers, seen)
    assert found["3"].second.shape == (1, 7, 7)
    cuts = groups.cuts(Selection(groups.space, (4,)))
    cut = slim(model, cuts)
    StaticRepair(model, found, ridge=1e-10).repair(cut, cuts)
    assert relative_difference(cut(seen.inputs), model(seen.inputs)) < 1e-6
    monkeypatch.setattr(moments_of, "WIDEST", 5)
    assert "3" not in measure_moments(model, groups.consumers, seen)


def test_moments_stay_within_the_memory() -> None:
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))
    seen = crops(2, 8, 9, 9)
    consumers = {str(number): np.arange(8) for number in range(4)}
    model.double()
    fine = sum(one.second.numel() * 8 for one in measure_moments(model, consumers, seen).values())
    found = measure_moments(model, consumers, seen, memory=fine - 1)
    assert sum(one.second.numel() * 8 for one in found.values()) < fine
    assert all(one.shared == 9 for one in found.values())


def test_what_is_not_finite_is_one_clear_error() -> None:
    layer = nn.Conv2d(4, 6, 3).double()
    x = noise(2, 4, 9, 8)
    x[1, 2, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"layer 0: .* not finite") as caught:
        measured(layer, CalibrationCrops(x, x))
    assert "\n" not in caught.value.message


def test_the_network_is_left_as_it_was_and_no_global_number_is_drawn() -> None:
    model = twins(nn.Conv2d(6, 5, 3, padding=1)).train()
    seen = crops(4, 3, 16, 16)
    groups = trace(model, seen.inputs[:2])
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    repair = StaticRepair(model, measure_moments(model, groups.consumers, seen, positions=20))
    cuts = groups.cuts(Selection(groups.space, (0, 4)))
    repair.repair(slim(model, cuts), cuts)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_bias_that_repair_made_is_exported(tmp_path: Path) -> None:
    model = twins(Own(5)).float()
    seen = CalibrationCrops(crops(4, 3, 16, 16).inputs.float(), crops(4, 3, 16, 16).targets.float())
    groups = trace(model, seen.inputs[:2])
    cuts = groups.cuts(Selection(groups.space, (0, 4)))
    cut = slim(model, cuts).eval()
    StaticRepair(model, measure_moments(model, groups.consumers, seen)).repair(cut, cuts)
    assert isinstance(cut.get_submodule("2").bias, nn.Parameter)
    artifact = EXPORTERS["onnx"](cut, seen.inputs[:1], tmp_path / "slim.onnx", opset=18, dynamic=False, metadata={})
    written = torch.from_numpy(open_onnx(artifact.path)(seen.inputs[:1].numpy()))
    assert relative_difference(written, cut(seen.inputs[:1]).detach()) < 1e-5
