"""The layers whose weights can have another width, and what is seen of them as a network runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from qcompress.recover.design import is_affine
from qcompress.recover.moments import affine
from qcompress.tracing_layers import kind_of

__all__ = ["before", "own_layers"]

_QUANTISABLE = ("conv", "conv_transpose", "depthwise", "linear")


def own_layers(model: nn.Module) -> tuple[str, ...]:
    """The convolutions of every kind and linear layers that share no parameter with others, in the order of definition."""
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    return tuple(
        name
        for name, module in model.named_modules()
        if is_affine(module)
        and kind_of(module) in _QUANTISABLE
        and all(owners[id(parameter)] == 1 for parameter in module.parameters(recurse=False))
    )


@contextmanager
def before(model: nn.Module, names: Iterable[str], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside the context, `see` is shown (layer, input) of every call of every one of `names`."""
    handles = []

    def watch(name: str) -> None:
        handles.append(affine(model, name).register_forward_pre_hook(lambda _, args: see(name, args[0])))

    try:
        for name in names:
            watch(name)
        yield
    finally:
        for handle in handles:
            handle.remove()
