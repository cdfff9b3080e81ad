"""Grids, rounding onto them, and the simulation, against whole numbers and a direct transcription of the literature."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recover import LAYERS, noise, randomised
from test_recover_static import owners
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError, UsageError
from qcompress.quantise import simulated
from qcompress.quantise.grids import LEVELS, along_outputs, halved, largest, on_grid, per_column
from qcompress.quantise.ranges import least_error, observe, step_of
from qcompress.quantise.rounding import centred, compensated, compensated_by
from qcompress.recover.design import Affine, parameters_of, weight_matrix
from qcompress.recover.moments import affine, measure_moments


@pytest.mark.parametrize("width", ["int8", "int4"])
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_weights_are_whole_multiples_of_scales_along_one_axis(layer: Affine, shape: tuple[int, ...], width: str) -> None:
    model = randomised(nn.Sequential(copy.deepcopy(layer))).float()
    module = affine(model, "0")
    matrix = weight_matrix(module)
    scale = largest(module, matrix[:, :-1], width)
    axis = 1 if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d) else 0
    flat = along_outputs(module, scale)
    assert flat.shape == module.weight.shape[axis : axis + 1]
    assert torch.equal(per_column(module, flat), scale)

    matrix[:, :-1] = on_grid(matrix[:, :-1], scale, width)
    weight = parameters_of(module, matrix)[0]
    levels = weight / flat.reshape([-1 if place == axis else 1 for place in range(weight.dim())])
    low, high = LEVELS[width]
    assert low <= levels.round().min()
    assert levels.round().max() <= high
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert (levels.round().abs().amax([place for place in range(weight.dim()) if place != axis]) == high).any()


def test_a_layer_of_zeros_has_a_scale() -> None:
    layer = nn.Linear(3, 2)
    assert torch.equal(largest(layer, torch.zeros(1, 3, 2, dtype=torch.float64), "int8"), torch.ones(1, 1, 2).double())


def by_obq(matrix: np.ndarray, scale: np.ndarray, second: np.ndarray, low: int, high: int) -> np.ndarray:
    """Optimal brain quantisation, one column after the other, the inverse of what is left made anew each time."""
    left, result = matrix.copy(), np.empty_like(matrix)
    columns = np.argsort(-np.diag(second), kind="stable").tolist()
    while columns:
        inverse, first = np.linalg.inv(second[np.ix_(columns, columns)]), columns[0]
        result[first] = np.clip(np.round(left[first] / scale), low, high) * scale
        left[columns] -= np.outer(inverse[:, 0], (left[first] - result[first]) / inverse[0, 0])
        columns = columns[1:]
    return result


def correlated(seed: int, g: int, columns: int) -> Tensor:
    """(g, D, D) positive definite."""
    root = noise(g, columns, columns, seed=seed)
    return root @ root.mT / columns + 0.05 * torch.eye(columns).double()


@pytest.mark.parametrize("columns", [5, 150])
def test_compensation_is_optimal_brain_quantisation(columns: int) -> None:
    second, matrix = correlated(1, 2, columns), noise(2, columns, 3, seed=2)
    scale = matrix.abs().amax(1, keepdim=True) / 7
    found = compensated(matrix, scale, "int4", second)
    for g in range(2):
        wanted = by_obq(matrix[g].numpy(), scale[g, 0].numpy(), second[g].numpy(), *LEVELS["int4"])
        np.testing.assert_allclose(found[g].numpy(), wanted, atol=1e-9)
    nearest = on_grid(matrix, scale, "int4")

    def error(rounded: Tensor) -> Tensor:
        return ((matrix - rounded) * (second @ (matrix - rounded))).sum()

    assert error(found) < (0.8 if columns > 100 else 1.0) * error(nearest)


def test_independent_inputs_leave_nothing_to_compensate() -> None:
    matrix = noise(1, 6, 3, seed=3)
    scale = matrix.abs().amax(1, keepdim=True) / 7
    second = torch.diag_embed(noise(1, 6, seed=4).abs() + 0.1)
    assert torch.equal(compensated(matrix, scale, "int4", second), on_grid(matrix, scale, "int4"))


@pytest.mark.parametrize("groups", [1, 2])
def test_taps_that_share_moments_compensate_by_themselves(groups: int) -> None:
    layer = affine(randomised(nn.Sequential(nn.Conv2d(8, 4, 3, padding=1, groups=groups))), "0")
    x = noise(3, 8, 6, 6)
    found = measure_moments(nn.Sequential(layer), {"0": owners(layer)}, CalibrationCrops(x, x), largest=0)["0"]
    assert found.shared == 9
    matrix = weight_matrix(layer)[:, :-1]
    scale = largest(layer, matrix, "int4")
    got = compensated_by(found, matrix, scale, "int4")
    for tap in range(9):
        alone = compensated(matrix[:, tap::9], scale, "int4", centred(found.second))
        assert torch.equal(got[:, tap::9], alone)


@settings(max_examples=60, deadline=None)
@given(st.floats(-100, 100), st.floats(-100, 100))
def test_zero_is_a_level_and_no_range_is_beyond_the_last(one: float, other: float) -> None:
    low, high = sorted((one, other))
    scale, zero_point = step_of(low, high)
    assert 0 <= zero_point <= 255
    assert -zero_point * scale <= low + 0.51 * scale
    assert (255 - zero_point) * scale >= high - 0.51 * scale


def test_ranges_of_least_error_cut_outliers_off() -> None:
    x = torch.rand(4, 4, 256, 256, generator=torch.Generator().manual_seed(0)) - 0.25
    x[0, 0, 0, 0] = 1.5
    model, crops = nn.Sequential(nn.Conv2d(4, 2, 1)), CalibrationCrops(x, x)
    whole = observe(model, ["0"], crops, batch=3)
    assert whole == {"0": (float(x.min()), 1.5)}
    assert least_error(model, whole, crops, batch=3) == {"0": (float(x.min()), 0.75)}


def test_what_is_not_finite_has_no_range() -> None:
    x = torch.full((1, 1, 2, 2), torch.inf)
    with pytest.raises(InputError, match="layer 0: what it sees of the calibration images is not finite"):
        observe(nn.Sequential(nn.Conv2d(1, 1, 1)), ["0"], CalibrationCrops(x, x))


@torch.no_grad()
def test_an_int8_layer_is_a_product_of_whole_numbers() -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1)
    model, x = nn.Sequential(nn.ReLU(), layer), torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    ranges = {"1": (0.0, 2.0)}
    found = simulated(model, {"1": "int8"}, ranges)(x)

    step, zero = 2.0 / 255, 0
    levels = (x.relu().double() / step + zero).round().clamp(0, 255) - zero
    scale = (layer.weight.double().flatten(1).abs().amax(1) / 127).float().double()
    weights = (layer.weight.double() / scale[:, None, None, None]).round()
    assert layer.bias is not None
    bias = (layer.bias.double() / (step * scale)).round()
    whole = nn.functional.conv2d(levels, weights, bias, padding=1)
    assert torch.equal(whole, whole.round())
    torch.testing.assert_close(found, (whole * (step * scale)[:, None, None]).float(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_float_inputs_meet_weights_of_few_bits() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    found = simulated(model, {"0": "float16", "1": "int4"}, {})
    half, coarse = affine(found, "0"), affine(found, "1")
    assert torch.equal(half.weight, affine(model, "0").weight.half().float())
    assert torch.equal(torch.as_tensor(half.bias), torch.as_tensor(affine(model, "0").bias))
    assert not torch.equal(coarse.weight, affine(model, "1").weight)
    assert torch.equal(halved(torch.tensor([1e6])), torch.tensor([65504.0]))
    scales = {"1": torch.tensor([0.5, 0.25])}
    levels = affine(simulated(model, {"1": "int4"}, {}, scales=scales), "1").weight / scales["1"][:, None]
    assert torch.equal(levels, levels.round())


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"0": "int7"}, "width 'int7' is not known"),
        ({"nine": "int8"}, "layer nine is not there"),
        ({"1": "int8"}, "layer 1 is ReLU"),
        ({"0": "int8"}, "layer 0 is to be int8, but nothing is known of its input"),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        simulated(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), widths, {})
