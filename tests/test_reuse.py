"""Reuse changes no bit, computes only what a change reaches, and lets be what it cannot follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import ARCHITECTURES, ODD, PRUNABLE, Flow, architecture, conv, network

from qcompress import seeds
from qcompress.errors import ArchitectureError
from qcompress.groups import Groups
from qcompress.refine.swaps import swapped
from qcompress.reuse import Reuse, Unfollowable
from qcompress.selection import Selection
from qcompress.surgery import SlicedShell, outputs_of
from qcompress.tracing import trace


@cache
def traced(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Groups]:
    """In float32, where another order of the same sums would show."""
    model, found = architecture(name) if name in ARCHITECTURES else network(name)
    inputs = (found,) if isinstance(found, Tensor) else found
    model.eval()
    groups = trace(model, inputs if len(inputs) > 1 else inputs[0])
    return model.float(), tuple(x.float() if x.is_floating_point() else x for x in inputs), groups


def neighbours(groups: Groups, count: int, seed: str) -> list[Selection]:
    """Half of the units, and mutants of that by one to three swaps; the half comes again and again."""
    generator = seeds.stream(0, seed)
    x = np.zeros(len(groups.space), bool)
    for unit in generator.permutation(len(x))[: len(x) // 2]:
        x[unit] = True
        x[unit] = groups.space.allows(x)
    masks = swapped(groups.space, x, generator.integers(1, 4, count), generator)
    return [Selection.of(groups.space, mask) for pair in ((mask, x) for mask in masks) for mask in pair]


def labelled(inputs: Sequence[Tensor]) -> list[tuple[Tensor, Any]]:
    return list(zip(inputs, range(len(inputs)), strict=True))


def plain(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    return outputs_of(model(*(x.clone() for x in inputs)))


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("limit", "at_once"), [(2**31, False), (20_000, True)], ids=["enough memory", "little memory"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, *PRUNABLE, *ODD])
def test_candidates_get_the_outputs_that_they_have_without_reuse(name: str, limit: int, at_once: bool) -> None:
    try:
        model, inputs, groups = traced(name)
    except ArchitectureError:
        pytest.skip("nothing of it can be pruned")
    shell = SlicedShell(model)
    reuse = Reuse(shell.cut({}), limit, at_once=at_once)
    with torch.no_grad():
        for selection in neighbours(groups, 6, name):
            slim = shell.cut(groups.cuts(selection))
            found = outputs_of(reuse(labelled(inputs), shell.labels))
            assert same(found, plain(slim, inputs))
            assert reuse.bytes <= limit


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that are really done."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.done[func._overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def count(reuse: Reuse, x: Tensor, label: Any = 0) -> tuple[Tensor, Counter[str]]:
    with torch.no_grad(), Counting() as counting:
        found: Tensor = reuse([(x, label)])
    return found, counting.done


def branches(module: nn.Module, x: Tensor) -> Tensor:
    x = functional.relu(module.get_submodule("stem")(x), inplace=True)
    left = functional.relu(module.get_submodule("left")(x), inplace=True)
    right = functional.relu(module.get_submodule("right")(x), inplace=True)
    right = module.get_submodule("right")(right)  # the same layer twice
    joined: Tensor = module.get_submodule("last")(torch.cat((left, right), 1) + 1)
    return joined


def branched() -> nn.Module:
    torch.manual_seed(0)
    return Flow(branches, stem=conv(3, 4), left=conv(4, 4), right=conv(4, 4), last=conv(8, 3)).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("layer", "convolutions"), [("stem", 5), ("left", 2), ("right", 3), ("last", 1)], ids=["stem", "left", "right", "last"]
)
def test_only_what_a_change_reaches_is_done(layer: str, convolutions: int) -> None:
    model = branched()
    reuse, x = Reuse(model), torch.rand(2, 3, 8, 8)
    assert count(reuse, x)[1]["convolution"] == 5
    weight = model.get_parameter(f"{layer}.weight")
    for _ in range(2):  # what is needed for the second time is kept
        weight.mul_(0.5)
        count(reuse, x)
    weight.mul_(0.5)
    found, done = count(reuse, x)
    assert done["convolution"] == convolutions
    assert torch.equal(found, model(x))
    count(reuse, x)  # the output is needed for the second time
    again, done = count(reuse, x)
    assert not done
    assert torch.equal(again, found)


def test_inputs_are_told_apart_by_their_labels_and_not_written_into() -> None:
    def forward(module: nn.Module, x: Tensor) -> Tensor:
        x *= 255
        y: Tensor = module.get_submodule("a")(x)
        return y

    model = Flow(forward, a=conv(3, 4)).eval()
    reuse, images = Reuse(model, at_once=True), torch.rand(3, 2, 3, 8, 8)
    before = images.clone()
    with torch.no_grad():
        for _ in range(2):
            for number, x in enumerate(images):
                assert torch.equal(reuse([(x, number)]), model(x.clone()))
    assert torch.equal(images, before)


def test_the_oldest_of_what_is_kept_goes_first_and_never_too_much_is_kept() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.Tanh(), conv(4, 3)).eval()
    x = torch.rand(1, 3, 16, 16)
    one = 4 * 16 * 16 * 4  # bytes of what a hidden layer gives
    for limit in (one - 1, one, 3 * one, 10 * one):
        reuse = Reuse(model, limit, at_once=True)
        for _ in range(3):
            assert torch.equal(count(reuse, x)[0], model(x))
            assert reuse.bytes <= limit
    done = count(reuse, x)[1]
    assert sum(done.values()) == 0


def test_what_is_made_anew_in_every_pass_is_told_by_its_values() -> None:
    model = Flow(
        lambda module, x: module.get_submodule("a")(x * torch.tensor([1.0, 2.0, 3.0])[:, None, None]), a=conv(3, 4)
    ).eval()
    reuse, x = Reuse(model, at_once=True), torch.rand(2, 3, 8, 8)
    count(reuse, x)
    found, done = count(reuse, x)
    assert torch.equal(found, model(x))
    assert done["convolution"] == done["mul"] == 0


def test_random_numbers_are_drawn_every_time() -> None:
    model = Flow(lambda module, x: module.get_submodule("a")(x + torch.rand_like(x)), a=conv(3, 4)).eval()
    reuse, x = Reuse(model, at_once=True), torch.rand(2, 3, 8, 8)
    assert not torch.equal(count(reuse, x)[0], count(reuse, x)[0])


def into_a_view(module: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = module.get_submodule("a")(x)
    y[:, 0] = 0
    return y


def into_a_buffer(module: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = module.get_submodule("a")(x)
    module.get_submodule("a").get_parameter("bias").add_(1)
    return y


def after_flattening(module: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = module.get_submodule("a")(x)
    y.flatten(1).relu_()
    return y


@pytest.mark.parametrize("forward", [into_a_view, into_a_buffer, after_flattening])
def test_what_cannot_be_followed_is_refused(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = Flow(forward, a=conv(3, 4)).eval().requires_grad_(False)
    with torch.no_grad(), pytest.raises(Unfollowable, match="writes into"):
        Reuse(model)([(torch.rand(2, 3, 8, 8), 0)])


def test_training_is_refused() -> None:
    with torch.no_grad(), pytest.raises(Unfollowable, match="training"):
        Reuse(nn.Sequential(conv(3, 4)))([(torch.rand(2, 3, 8, 8), 0)])
