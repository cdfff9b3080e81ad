"""What moves the weights in fine-tuning: Muon for matrices, Adam for the rest, both in place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from qcompress.errors import UsageError
from qcompress.finetune import training
from qcompress.finetune.optimiser import WIDEST, Mover, matrices
from qcompress.finetune.training import parameters
from qcompress.settings import FinetuneOptions


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2), nn.Conv2d(4, 6, 1)
    )


def in_channels_last(model: nn.Sequential) -> nn.Sequential:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def gradients(model: nn.Module, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=rng))


def test_matrices_are_what_leads_from_channels_to_channels() -> None:
    assert matrices(network()) == {"0.weight", "3.weight", "4.weight"}
    assert matrices(nn.Linear(5, 4)) == {"weight"}
    assert matrices(nn.Sequential(nn.Linear(5, 1), nn.Linear(WIDEST + 1, WIDEST + 1))) == set()


@pytest.mark.parametrize("last", [False, True])
def test_a_step_goes_about_as_far_in_all_directions_of_a_matrix(last: bool) -> None:
    model = in_channels_last(network()) if last else network()
    before = {name: weight.detach().clone() for name, weight in parameters(model).items()}
    mover = Mover(model, parameters(model), "muon", {}, {}, 0)
    gradients(model, 1)
    mover.step(0.01)
    for name in matrices(model):
        moved = (parameters(model)[name].detach() - before[name]).flatten(1)
        lengths = torch.linalg.svdvals(moved) / (0.01 * 0.2 * math.sqrt(max(moved.shape)))
        assert float(lengths.min()) > 0.5
        assert float(lengths.max()) < 1.5
    bias = parameters(model)["0.bias"]
    torch.testing.assert_close((bias.detach() - before["0.bias"]).abs(), torch.full((8,), 0.01))  # Adam's first step


def test_memory_order_changes_nothing() -> None:
    models = [network(), in_channels_last(network())]
    for model in models:
        mover = Mover(model, parameters(model), "muon", {}, {}, 0)
        for step in range(3):
            mover.zero()
            gradients(model, step)
            mover.step(0.01)
    plain, last = (parameters(model) for model in models)
    for name, weight in plain.items():
        torch.testing.assert_close(weight, last[name], atol=5e-4, rtol=0)  # bfloat16 iterations, in another order of columns


@pytest.mark.parametrize("kind", ["muon", "adam"])
def test_moments_that_were_kept_go_on_to_the_same_bits(kind: str) -> None:
    model, other = (in_channels_last(network()) for _ in range(2))
    mover = Mover(model, parameters(model), kind, {}, {}, 0)  # type: ignore[arg-type]
    again = Mover(other, parameters(other), kind, {}, {}, 0)  # type: ignore[arg-type]
    for step in range(4):
        if step == 2:
            again = Mover(other, parameters(other), kind, *again.moments(), steps=step)  # type: ignore[arg-type]
        for net, part in ((model, mover), (other, again)):
            gradients(net, step)
            part.step(0.01)
    first, second = mover.moments()
    assert first.keys() == parameters(model).keys()
    assert second.keys() == first.keys() - (matrices(model) if kind == "muon" else set())
    for name, weight in parameters(model).items():
        assert first[name].shape == weight.shape
        assert torch.equal(weight, parameters(other)[name])


def test_weights_in_an_unusual_order_of_memory_are_put_in_order() -> None:
    layer = nn.Conv1d(4, 6, 3)
    model, weight = nn.Sequential(layer, nn.Flatten(), nn.Linear(6, 2)), layer.weight
    weight.data = weight.detach().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert not weight.is_contiguous()
    desk = training._trainable(model, "cpu")
    mover = Mover(desk, parameters(desk), "muon", {}, {}, 0)
    gradients(desk, 0)
    mover.step(0.1)
    assert not torch.equal(parameters(desk)["0.weight"], weight)


def test_another_optimiser_is_refused() -> None:
    with pytest.raises(UsageError, match="muon or adam"):
        FinetuneOptions(optimiser="sgd")  # type: ignore[arg-type]
