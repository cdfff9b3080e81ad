from __future__ import annotations

import itertools

import numpy as np
import pytest
import teneva  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from qcompress.refine.counter import CountedTrain

Array = NDArray[np.float64]


def cores_of(d: int, rank: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    ranks = [1, *[rank] * (d - 1), 1]
    return [rng.uniform(0.05, 1, (left, 2, right)) for left, right in itertools.pairwise(ranks)]


def enumerated(cores: list[Array], count: int) -> tuple[NDArray[np.bool_], Array]:
    """Every mask of `count` ones, and its probability: the full tensor's entries, restricted and normalised."""
    masks = np.array([m for m in itertools.product((0, 1), repeat=len(cores)) if sum(m) == count])
    entries = teneva.full(cores)[tuple(masks.T)]
    return masks.astype(bool), entries / entries.sum()


@pytest.mark.parametrize(("d", "count", "rank"), [(1, 0, 1), (1, 1, 1), (2, 1, 3), (6, 0, 2), (6, 6, 2), (7, 3, 3), (8, 5, 2)])
def test_probabilities_are_the_enumerated_ones(d: int, count: int, rank: int) -> None:
    cores = cores_of(d, rank, d)
    masks, probabilities = enumerated(cores, count)
    train = CountedTrain(cores, [count])
    np.testing.assert_allclose(np.exp(train.log_probability(masks)), probabilities, rtol=1e-12)
    np.testing.assert_allclose(train.marginals(), probabilities @ masks, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("d", "count", "rank"), [(4, 2, 1), (7, 3, 3), (8, 4, 2)])
def test_samples_follow_the_enumerated_probabilities(d: int, count: int, rank: int) -> None:
    cores = cores_of(d, rank, 7 * d)
    masks, probabilities = enumerated(cores, count)
    places = {mask.tobytes(): place for place, mask in enumerate(masks)}
    number = 20_000
    drawn = CountedTrain(cores, [count]).sample(number, np.random.default_rng(1))
    observed = np.bincount([places[mask.tobytes()] for mask in drawn], minlength=len(masks))
    assert stats.chisquare(observed, number * probabilities).pvalue > 1e-3  # fixed seed: passes always or never


def test_gradient_matches_finite_differences() -> None:
    cores, count = cores_of(6, 3, 5), 3
    masks = enumerated(cores, count)[0][[0, 4, 11]]
    weights = np.array([0.5, -1.0, 2.0])
    slopes = CountedTrain(cores, [count]).gradient(masks, weights)
    for core, slope in zip(cores, slopes, strict=True):
        for place in np.ndindex(core.shape):
            kept, step, values = core[place], 1e-6, []
            for sign in (1, -1):
                core[place] = kept + sign * step
                values.append(weights @ CountedTrain(cores, [count]).log_probability(masks))
            core[place] = kept
            assert slope[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-7)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_sample_has_another_count(data: st.DataObject) -> None:
    d = data.draw(st.integers(1, 40))
    count = data.draw(st.integers(0, d))
    steepness = data.draw(st.sampled_from([0.0, 1.0, 30.0]))  # cores over e^+-30: counts far from the mode are forced
    cores = cores_of(d, 2, data.draw(st.integers(0, 99)))
    rng = np.random.default_rng(0)
    cores = [core * np.exp(steepness * rng.uniform(-1, 1, core.shape)) for core in cores]
    assert (CountedTrain(cores, [count]).sample(5, rng).sum(axis=1) == count).all()


def test_states_survive_where_plain_products_overflow() -> None:
    d = 600
    core = np.array([1e-3, 1e3]).reshape(1, 2, 1)
    train = CountedTrain([core] * d, [d // 2])
    np.testing.assert_allclose(train.marginals(), 0.5, rtol=1e-9)  # all units alike, half of them chosen
    assert np.isfinite(train.log_normaliser)


@pytest.mark.parametrize(
    ("lengths", "counts"),
    [((3, 4), (1, 2)), ((2, 0, 3, 2), (2, 0, 0, 1)), ((1, 1, 1), (1, 0, 1)), ((7,), (3,)), ((4, 3), (0, 3))],
)
def test_segments_have_their_counts_and_the_enumerated_probabilities(lengths: tuple[int, ...], counts: tuple[int, ...]) -> None:
    d = sum(lengths)
    cores = cores_of(d, 3, 11)
    borders = np.cumsum((0, *lengths))
    masks = np.array(list(itertools.product((0, 1), repeat=d)))
    fitting = np.array([[mask[a:b].sum() for a, b in itertools.pairwise(borders)] == list(counts) for mask in masks])
    masks = masks[fitting]
    entries = teneva.full(cores)[tuple(masks.T)]
    masks, probabilities = masks.astype(bool), entries / entries.sum()
    train = CountedTrain(cores, counts, lengths)
    np.testing.assert_allclose(np.exp(train.log_probability(masks)), probabilities, rtol=1e-12)
    np.testing.assert_allclose(train.marginals(), probabilities @ masks, rtol=1e-10, atol=1e-12)
    number = 4000
    drawn = train.sample(number, np.random.default_rng(1))
    places = {mask.tobytes(): place for place, mask in enumerate(masks)}
    observed = np.bincount([places[mask.tobytes()] for mask in drawn], minlength=len(masks))
    assert len(masks) == 1 or stats.chisquare(observed, number * probabilities).pvalue > 1e-3


def test_gradient_over_segments_matches_finite_differences() -> None:
    cores, lengths, counts = cores_of(6, 2, 5), (2, 4), (1, 2)
    masks = np.array([[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1]], bool)
    weights = np.array([0.5, -2.0])
    slopes = CountedTrain(cores, counts, lengths).gradient(masks, weights)
    for core, slope in zip(cores, slopes, strict=True):
        for place in np.ndindex(core.shape):
            kept, step, values = core[place], 1e-6, []
            for sign in (1, -1):
                core[place] = kept + sign * step
                values.append(weights @ CountedTrain(cores, counts, lengths).log_probability(masks))
            core[place] = kept
            assert slope[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-7)
