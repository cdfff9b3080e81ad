"""An oracle that shares no code with ours: Torch-Pruning's graph, where it is right; and it is told apart where it is not."""

from __future__ import annotations

import copy

import pytest
from zoo import PRUNABLE, network

from qcompress.second_opinion import second_opinion
from qcompress.tracing import trace

ELSEWHERE = {"attended", "smooth", "dense"}  # broadcast gates, shared slopes, repeated concatenations: upstream is wrong there
WRONG = ("swapped", "shuffled", "selective", "reversed", "repeated", "padded", "pixel-shuffle", "multiplied")


@pytest.mark.parametrize("name", sorted(PRUNABLE.keys() - ELSEWHERE))
def test_it_agrees_where_it_can_follow(name: str) -> None:
    model, x = network(name)
    before = copy.deepcopy(model.state_dict())
    opinions = second_opinion(model, x, trace(model, x))
    assert opinions
    assert {opinion.verdict for opinion in opinions} == {"agrees"}
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("name", WRONG)
def test_it_is_told_apart_where_it_is_wrong(name: str) -> None:
    model, x = network(name)
    first = second_opinion(model, x, trace(model, x))[0]
    assert first.verdict != "agrees"
    assert first.note
