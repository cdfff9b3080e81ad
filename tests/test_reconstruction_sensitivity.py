"""Sensitivities against Jacobians, with projections onto every output in turn: then they are exact, not only on average."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError
from qcompress.reconstruction import sensitivity
from qcompress.reconstruction.sensitivity import measure_sensitivity
from qcompress.recover.design import Affine, divisions
from qcompress.surgery import outputs_of

SHAPE = (1, 2, 4, 5)


class Gated(nn.Module):
    """A ReLU in place right behind a convolution, divisions, a stride, a linear layer on tokens, a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.gate = nn.ReLU(inplace=True)
        self.divided = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.up = nn.ConvTranspose2d(6, 3, 2, 2)
        self.tokens = nn.Linear(3, 3)
        self.unused = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sin(self.up(self.divided(self.gate(self.first(x)))))
        return torch.tanh(self.tokens(y.flatten(2).transpose(1, 2)))


class Twice(nn.Module):
    """One layer called twice, and two outputs of one shape, beside one that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> object:
        y = torch.sin(self.layer(x))
        z = self.layer(y)
        return {"both": (y * z, torch.tanh(z)), "largest": z.argmax(1)}


def built(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind().double().train()


def in_turn(total: int, offsets: list[int]) -> Callable[[Tensor, int, int], Tensor]:
    """In place of normal vectors: for the k-th crop, the k-th unit vector of all outputs, times the root of their number."""

    def vector(like: Tensor, start: int, place: int) -> Tensor:
        v = like.new_zeros(like.shape).flatten(1)
        for crop in range(len(v)):
            at = start + crop - offsets[place]
            if 0 <= at < v.shape[1]:
                v[crop, at] = total**0.5
        return v.reshape(like.shape)

    return vector


def jacobian(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """(g, c, c) the sum over calls and places of J'J, J by autograd in what is added to the layer's output."""
    module = model.get_submodule(name)
    assert isinstance(module, Affine)
    shapes: list[torch.Size] = []
    handle = module.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    model(x.clone())
    handle.remove()

    def outputs(*added: Tensor) -> Tensor:
        waiting = list(added)
        handle = module.register_forward_hook(lambda _, __, output: output + waiting.pop(0))
        try:
            found = [output for output in outputs_of(model(x.clone())) if output.is_floating_point()]
        finally:
            handle.remove()
        return torch.cat([output.flatten() for output in found])

    axis, g = (-1 if isinstance(module, nn.Linear) else 1), divisions(module)
    total = torch.zeros((), dtype=torch.float64)
    at = tuple(x.new_zeros(shape) for shape in shapes)
    for part in torch.autograd.functional.jacobian(outputs, at):  # type: ignore[no-untyped-call]
        rows = part.movedim(axis if axis < 0 else axis + 1, -1)  # one axis more, that of the outputs, comes first
        rows = rows.reshape(-1, g, rows.shape[-1] // g).transpose(0, 1)
        total = total + rows.transpose(1, 2) @ rows
    return total


@pytest.mark.parametrize(("kind", "names"), [(Gated, ("first", "divided", "up", "tokens")), (Twice, ("layer",))])
def test_it_is_the_square_of_the_jacobian_before_what_follows_the_layer(
    kind: Callable[[], nn.Module], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(kind).eval()
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sizes = [output.numel() for output in outputs_of(model(x.clone())) if output.is_floating_point()]
    offsets = [sum(sizes[:place]) for place in range(len(sizes))]
    monkeypatch.setattr(sensitivity, "_normal", in_turn(sum(sizes), offsets))
    inputs = x.repeat(sum(sizes), 1, 1, 1)
    found = measure_sensitivity(model, names, CalibrationCrops(inputs, inputs), batch=7)
    assert sorted(found) == sorted(names)
    for name in names:
        torch.testing.assert_close(found[name], jacobian(model, name, x), rtol=1e-9, atol=1e-12)


def test_on_average_normal_vectors_give_the_same() -> None:
    second, crops = nn.Conv2d(3, 2, 1).double(), 2000
    model = nn.Sequential(nn.Conv2d(2, 3, 1).double(), second)
    inputs = torch.zeros(crops, 2, 1, 1, dtype=torch.float64)
    found = measure_sensitivity(model, ["0"], CalibrationCrops(inputs, inputs), batch=500)["0"][0]
    weight = second.weight.detach()[:, :, 0, 0]
    exact = weight.T @ weight
    assert float((found - exact).norm() / exact.norm()) < 5 * (3 / crops) ** 0.5  # five standard deviations of the trace


def test_outputs_of_one_shape_have_projections_of_their_own() -> None:
    like = torch.zeros(4, 3)
    first, second = (sensitivity._normal(like, 0, place) for place in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, sensitivity._normal(like, 0, 0))


def test_the_network_is_left_as_it_was() -> None:
    model = built(Gated)
    model.first.weight.requires_grad_(False)  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.rand(5, 2, 4, 5, dtype=torch.float64)
    found = measure_sensitivity(model, ["first", "unused"], CalibrationCrops(inputs, inputs), batch=2)
    assert list(found) == ["first"]  # the output does not depend on the other
    assert all(module.training for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["first.weight"]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not inputs.requires_grad


class Silent(nn.Module):
    """Computes without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return functional.relu(self.layer(x))


class Broken(Silent):
    """The gradient of a root at zero is infinite, and times zero not a number."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.layer(x) * 0).sqrt()
        return y


@pytest.mark.parametrize(("kind", "words"), [(Silent, "can be differentiated"), (Broken, "layer layer")])
def test_what_cannot_be_differentiated_is_one_clear_error(kind: Callable[[], nn.Module], words: str) -> None:
    inputs = torch.rand(2, 2, 3, 3, dtype=torch.float64)
    with pytest.raises(InputError, match=words) as caught:
        measure_sensitivity(built(kind), ["layer"], CalibrationCrops(inputs, inputs))
    assert "\n" not in caught.value.message
    assert caught.value.hint
