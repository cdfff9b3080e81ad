"""Masks at the consumers are removal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcompress.errors import UsageError
from qcompress.groups import Group, Groups, Layer, LayerKind, Member, Side
from qcompress.masks import consumer_masks, consumer_units


class Joined(nn.Module):
    """conv, BatchNorm and ReLU; a second conv of that with a depthwise one behind it; both concatenated into a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 3, 3, padding=1)
        self.depth = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.last = nn.Conv2d(7, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu_(self.norm(self.first(x)))
        b = self.depth(torch.relu(self.second(a)))
        y: Tensor = self.last(torch.cat([a, b], 1))
        return y


class Flat(nn.Module):
    """A 1d convolution, a linear layer over its positions, a flatten, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.head = nn.Linear(3 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.tanh(self.conv(x)).flatten(1))
        return y


def each(start: int, stop: int) -> tuple[tuple[int, ...], ...]:
    return tuple((channel,) for channel in range(start, stop))


def layer(name: str, kind: LayerKind, inputs: int, outputs: int) -> Layer:
    return Layer(name, kind, inputs, outputs, kernel=9, positions=0, bias=True)


def member(name: str, side: Side, start: int, stop: int) -> Member:
    return Member(name, side, each(start, stop))


JOINED = Groups(
    groups=(
        Group(
            "first",
            (
                member("first", "out", 0, 4),
                member("norm", "out", 0, 4),
                member("second", "in", 0, 4),
                member("last", "in", 0, 4),
            ),
        ),
        Group("second", (member("second", "out", 0, 3), member("depth", "out", 0, 3), member("last", "in", 4, 7))),
    ),
    layers=(
        layer("first", "conv", 1, 4),
        layer("norm", "batchnorm", 4, 4),
        layer("second", "conv", 4, 3),
        layer("depth", "depthwise", 3, 3),
        layer("last", "conv", 7, 2),
    ),
    kept_whole=(),
    example_shape=(1, 1, 8, 8),
)
FLAT = Groups(
    groups=(
        Group(
            "conv",
            (member("conv", "out", 0, 3), Member("head", "in", tuple(tuple(range(6 * u, 6 * u + 6)) for u in range(3)))),
        ),
    ),
    layers=(layer("conv", "conv", 2, 3), layer("head", "linear", 18, 2)),
    kept_whole=(),
    example_shape=(1, 2, 8),
)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) - (0.0 if tensor.dim() == 1 else 0.5)
    return model.eval().double()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def without(model: nn.Module, x: Tensor, gone: list[bool]) -> Tensor:
    """`Joined` with the units of `gone` removed, by slicing every tensor by hand."""
    assert isinstance(model, Joined)
    kept_a = [u for u in range(4) if not gone[u]]
    kept_b = [u for u in range(3) if not gone[4 + u]]
    f, p = nn.functional, dict(model.named_parameters())
    a = f.conv2d(x, p["first.weight"][kept_a], p["first.bias"][kept_a], padding=1)
    norm = model.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    a = f.batch_norm(a, norm.running_mean[kept_a], norm.running_var[kept_a], norm.weight[kept_a], norm.bias[kept_a])
    a = torch.relu(a)
    b = torch.relu(f.conv2d(a, p["second.weight"][kept_b][:, kept_a], p["second.bias"][kept_b], padding=1))
    b = f.conv2d(b, p["depth.weight"][kept_b], p["depth.bias"][kept_b], padding=1, groups=len(kept_b))
    joined = p["last.weight"][:, kept_a + [4 + u for u in kept_b]]
    return f.conv2d(torch.cat([a, b], 1), joined, p["last.bias"], padding=1)


GONE = st.lists(st.booleans(), min_size=7, max_size=7).filter(lambda gone: not all(gone[:4]) and not all(gone[4:]))


@given(GONE)
@settings(max_examples=30, deadline=None)
def test_masked_is_removed(gone: list[bool]) -> None:
    model, x = randomised(Joined()), images(2, 1, 8, 8)
    keep = 1 - torch.tensor([gone], dtype=torch.float64)
    with torch.no_grad(), consumer_masks(model, JOINED, keep):
        masked = model(x)
    torch.testing.assert_close(masked, without(model, x, gone), rtol=1e-10, atol=1e-12)


@given(st.lists(GONE, min_size=3, max_size=3))
@settings(max_examples=10, deadline=None)
def test_every_image_has_its_own_mask(gone: list[list[bool]]) -> None:
    model, x = randomised(Joined()), images(3, 1, 8, 8)
    with torch.no_grad(), consumer_masks(model, JOINED, 1 - torch.tensor(gone, dtype=torch.float64)):
        together = model(x)
    for row, image in enumerate(x):
        torch.testing.assert_close(together[row], without(model, image[None], gone[row])[0])


def test_a_unit_behind_a_flatten_owns_several_channels() -> None:
    model, x = randomised(Flat()), images(2, 2, 8)
    assert isinstance(model, Flat)
    with torch.no_grad(), consumer_masks(model, FLAT, torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)):
        masked = model(x)
    maps = torch.tanh(model.conv(x))
    maps[:, 1] = 0
    torch.testing.assert_close(masked, model.head(maps.flatten(1)))
    assert consumer_units(FLAT)["head"].tolist() == [0] * 6 + [1] * 6 + [2] * 6


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3)])
def test_a_linear_layer_mixes_the_last_axis(shape: tuple[int, ...]) -> None:
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    groups = Groups(
        (Group("0", (member("0", "out", 0, 4), member("1", "in", 0, 4))),),
        (layer("0", "linear", 3, 4), layer("1", "linear", 4, 2)),
        (),
        shape,
    )
    x, keep = images(*shape), torch.tensor([1.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    with torch.no_grad(), consumer_masks(model, groups, keep[None]):
        masked = model(x)
    torch.testing.assert_close(masked, model[1](model[0](x) * keep))  # type: ignore[index]


def test_a_zeroed_producer_is_not_a_mask() -> None:
    model, x = randomised(Joined()), images(2, 1, 8, 8)
    gone = [True] + [False] * 6
    removed = without(model, x, gone)
    with torch.no_grad():
        model.get_parameter("first.weight")[0] = 0
        model.get_parameter("first.bias")[0] = 0
        model.get_parameter("norm.bias")[0] = 2  # what the BatchNorm makes of zero
    assert not torch.allclose(model(x), removed, rtol=1e-2)


def test_fill_replaces_a_pruned_channel_by_its_value() -> None:
    model, x = randomised(Joined()), images(2, 1, 8, 8)
    assert isinstance(model, Joined)
    keep = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    with torch.no_grad(), consumer_masks(model, JOINED, keep, {"last": torch.arange(7.0)}):
        filled = model(x)
    a = torch.relu(model.norm(model.first(x)))
    b = model.depth(torch.relu(model.second(a)))
    b[:, 1] = 5.0  # channel 5 of the joined maps
    torch.testing.assert_close(filled, model.last(torch.cat([a, b], 1)))


def test_hooks_are_gone_even_after_an_error() -> None:
    model, x = randomised(Joined()), images(1, 1, 8, 8)
    before = model(x)
    with pytest.raises(RuntimeError, match="stop"), consumer_masks(model, JOINED, torch.zeros(1, 7)):
        raise RuntimeError("stop")
    assert not any(module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(7,), (1, 6), (1, 1, 7)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected \(1, 7\)"), consumer_masks(Joined(), JOINED, torch.ones(shape)):
        pass


def test_as_many_masks_as_images_or_one() -> None:
    model = randomised(Joined())
    with pytest.raises(UsageError, match="3 images meet 2 masks"), consumer_masks(model, JOINED, torch.ones(2, 7)):
        model(images(3, 1, 8, 8))
