"""Noise: its statistics against the formulas, its parsing, and that it belongs to the generator alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qcompress.data.noise import Camera, Gaussian, Noise, parse, read_variance, to_linear, to_srgb
from qcompress.errors import DataError, QCompressError, UsageError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("text", ["gaussian:25", "gaussian:0.5", "camera", "camera:0.01"])
def test_names_and_noises_are_the_same(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gaussian",
        "gaussian:",
        "gaussian:x",
        "gaussian:-1",
        "gaussian:0",
        "gaussian:nan",
        "camera:",
        "camera:2",
        "poisson:3",
    ],
)
def test_other_names_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.hint


def test_gaussian_has_the_deviation_asked_for_and_is_not_clipped() -> None:
    clean = np.full((3, 128, 128), 0.02, np.float32)
    noisy, target = Gaussian(25).apply(clean, rng())
    assert target is clean
    assert noisy.dtype == np.float32
    assert noisy.min() < 0
    difference = (noisy - clean).astype(float)
    assert difference.std() == pytest.approx(25 / 255, rel=0.01)
    assert abs(difference.mean()) < 4 * 25 / 255 / math.sqrt(difference.size)


@pytest.mark.parametrize("noise", [Gaussian(25), Camera(), Camera(0.01)], ids=str)
@pytest.mark.parametrize("shape", [(1, 33, 20), (3, 33, 20), (3, 2, 2)])
def test_noise_is_the_generators_alone(noise: Noise, shape: tuple[int, int, int]) -> None:
    clean = rng(3).random(shape, np.float32)
    before = clean.copy()
    first, second, other = (noise.apply(clean, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(clean, before)
    assert first[0].shape == first[1].shape == shape
    assert first[0].dtype == first[1].dtype == np.float32


def test_srgb_and_linear_light_are_inverse_and_known_at_some_points() -> None:
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=1e-6)
    assert to_linear(np.array([0.5]))[0] == pytest.approx(0.21404114)  # IEC 61966-2-1
    assert np.all(np.diff(to_linear(values)) > 0)


@pytest.mark.parametrize("level", [0.1, 0.4])
@pytest.mark.parametrize("shot", [1e-3, 1e-2])
def test_grey_camera_noise_has_the_variance_of_the_model_in_linear_light(level: float, shot: float) -> None:
    clean = to_srgb(np.full((1, 256, 256), level))
    noisy, target = Camera(shot).apply(clean, rng())
    np.testing.assert_allclose(target, clean, atol=1e-6)
    linear = to_linear(noisy.astype(float))
    assert linear.var() == pytest.approx(shot * level + read_variance(shot), rel=0.03)
    assert linear.mean() == pytest.approx(level, rel=0.01)


def test_colour_camera_noise_is_correlated_by_the_demosaicing_and_spares_the_target() -> None:
    clean = to_srgb(np.full((3, 256, 256), 0.3))
    noisy, target = Camera(0.005).apply(clean, rng())
    np.testing.assert_allclose(target, clean, atol=1e-5)  # a flat picture passes the chain unchanged, borders included
    difference = (noisy - target).astype(float)
    for channel in difference:
        assert np.corrcoef(channel[:, 1:].ravel(), channel[:, :-1].ravel())[0, 1] > 0.3
    assert difference[0].std() > difference[1].std()  # red is amplified by the white balance


def test_measured_sites_keep_their_value_through_the_demosaicing() -> None:
    clean = rng(1).random((3, 16, 17)).astype(np.float32)
    _, target = Camera(0.01).apply(clean, rng())
    np.testing.assert_allclose(target[0, 0::2, 0::2], clean[0, 0::2, 0::2], atol=1e-5)
    np.testing.assert_allclose(target[1, 0::2, 1::2], clean[1, 0::2, 1::2], atol=1e-5)
    np.testing.assert_allclose(target[2, 1::2, 1::2], clean[2, 1::2, 1::2], atol=1e-5)


def test_camera_strength_is_drawn_from_the_documented_range() -> None:
    clean = to_srgb(np.full((1, 64, 64), 0.2))
    variances = [to_linear(Camera().apply(clean, rng(seed))[0].astype(float)).var() for seed in range(60)]
    shots = np.array([1e-3, 3e-2])
    low, high = shots * 0.2 + [read_variance(shot) for shot in shots]
    assert 0.9 * low < min(variances) < 3 * low
    assert high / 3 < max(variances) < 1.1 * high


def test_pictures_smaller_than_a_cell_of_the_mosaic_are_refused() -> None:
    with pytest.raises(DataError, match="1x5"):
        Camera().apply(np.zeros((3, 5, 1), np.float32), rng())
    assert issubclass(DataError, QCompressError)
