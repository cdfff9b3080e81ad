from __future__ import annotations

import numpy as np

from qcompress.refine.contract import Measured
from qcompress.refine.tensor_train import TensorTrain, _contested, _distribution, _flip_odds, _Learner, _warm_cores
from qcompress.selection import Selection, UnitSpace


def test_contested_are_the_cheapest_of_both_sides() -> None:
    costs = np.array([-5.0, -1.0, -3.0, 9.0, 2.0, 4.0])
    pruned = np.array([1, 1, 1, 0, 0, 0], bool)
    assert _contested(costs, pruned, 4).tolist() == [0, 2, 4, 5]


def test_flip_odds_meet_the_expected_number_and_follow_the_costs() -> None:
    costs, pruned = np.linspace(0, 1, 20), np.arange(20) % 2 == 0
    odds = _flip_odds(costs, pruned, 3.0)
    assert np.isclose(np.sum(1 / (1 + np.exp(-odds))), 3.0)
    assert (np.diff(odds[pruned]) < 0).all()


def test_the_warm_start_has_its_mode_at_the_start() -> None:
    rng = np.random.default_rng(0)
    pruned = np.arange(30) % 3 == 0
    train = _distribution(_warm_cores(pruned, np.full(30, -2.5), 3, rng), (10,), [30])
    drawn = train.sample(400, rng)
    unique, counts = np.unique(drawn, axis=0, return_counts=True)
    assert (unique[counts.argmax()] == pruned).all()
    assert 0 < (drawn != pruned).sum(axis=1).mean() < 4


def test_learning_moves_the_distribution_towards_the_elite() -> None:
    space = UnitSpace.of([("a", 12)])
    start = Selection(space, (0, 1, 2, 3))
    learner = _Learner(TensorTrain(share=1.0, elite=1, every=1), start, None, np.random.default_rng(0))
    learner.tell(Measured(start.x[None], np.array([30.0]), np.array([True])))
    better = Selection(space, (0, 1, 2, 7)).x
    before = float(learner._train.log_probability(better[None])[0])
    for _ in range(5):
        learner.tell(Measured(better[None], np.array([31.0]), np.array([True])))
    assert float(learner._train.log_probability(better[None])[0]) > before + 0.5


def test_a_candidate_that_lost_its_race_teaches_nothing() -> None:
    space = UnitSpace.of([("a", 12)])
    start = Selection(space, (0, 1, 2, 3))
    learner = _Learner(TensorTrain(every=1), start, None, np.random.default_rng(0))
    learner.tell(Measured(start.x[None], np.array([30.0]), np.array([True])))
    learner.tell(Measured(Selection(space, (4, 5, 6, 7)).x[None], np.array([99.0]), np.array([False])))
    assert (learner._mask == start.x).all()


def test_the_train_follows_an_incumbent_with_another_number_of_contested_units() -> None:
    space = UnitSpace.of([("a", 12)])
    start = Selection(space, (0, 1, 2, 3))
    settings = TensorTrain(share=1.0, contested=4, every=1)
    learner = _Learner(settings, start, lambda masks: masks @ np.arange(12.0), np.random.default_rng(0))
    learner.tell(Measured(start.x[None], np.array([30.0]), np.array([True])))
    inside, outside = int(learner._units[0]), 11  # 11 is the most expensive: not contested
    moved = start.x
    moved[[inside, outside]] = [False, True]
    learner.tell(Measured(moved[None], np.array([31.0]), np.array([True])))
    drawn = learner.ask(50)
    assert (drawn.sum(axis=1) == 4).all()
    assert drawn[:, outside].all()


def test_inside_groups_every_candidate_keeps_the_counts_per_group() -> None:
    space = UnitSpace.of([("a", 8), ("b", 6), ("whole", 5), ("c", 9)])
    start = Selection(space, (0, 1, 2, 9, 10, 20, 21, 22, 23))
    rng = np.random.default_rng(0)
    learner = _Learner(TensorTrain(share=0.5, contested=14, every=2, inside=True), start, None, rng)
    learner.tell(Measured(start.x[None], np.array([30.0]), np.array([True])))
    seen: set[bytes] = set()
    for round_number in range(12):
        masks = learner.ask(10)
        assert (space.counts(masks) == space.counts(start.x)).all()
        seen.update(mask.tobytes() for mask in masks)
        learner.tell(Measured(masks, rng.normal(30, 1, len(masks)) + round_number, np.ones(len(masks), bool)))
    assert len(seen) > 40
