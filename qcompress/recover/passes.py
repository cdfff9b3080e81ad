"""Passes of a network that is repaired layer by layer: what comes before the layer is final, and is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress

import torch
from torch import Tensor, nn

from qcompress.frozen import answer
from qcompress.reuse import LIMIT, Reuse

__all__ = ["Passes", "after"]

See = Callable[[str, Tensor, Tensor], None]
"""Shown the layer, its input and its output."""


class _Enough(Exception):  # noqa: N818 - not an error: the forward pass has come far enough
    pass


@contextmanager
def after(model: nn.Module, names: Iterable[str], see: See) -> Iterator[None]:
    """Inside the context, `see` is shown (layer, input, output) of every call of every one of `names`."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, args, output: see(name, args[0], output)

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Passes:
    """Passes of `model` on inputs that are told apart by number, each up to the last wanted call of one layer.

    Operations whose inputs and weights are those of an earlier pass are not done again (`reuse.Reuse`, which keeps at most
    `limit` bytes; 0: all are done). A network that cannot be followed is run without; the first input that comes again is run
    both ways, to see whether it can.
    """

    def __init__(self, model: nn.Module, limit: int = LIMIT) -> None:
        self._model = model
        self._reuse = Reuse(model, limit, at_once=True) if limit else None
        self._seen: set[int] = set()
        self._checked = False

    @property
    def reuses(self) -> bool:
        """Whether earlier results are used."""
        return self._reuse is not None

    def __call__(
        self, name: str, number: int, inputs: Tensor, calls: int, look: Callable[[int, Tensor, Tensor], Tensor]
    ) -> list[Tensor]:
        """What `look` makes of (call, input, output) of each of the first `calls` calls of layer `name`.

        It must copy what it takes of the input, and look at no more than the shape of the output.
        """
        if self._reuse is None:
            return self._plain(name, inputs, calls, look)
        try:
            found = self._run(self._reuse, name, number, inputs, calls, look)
        except Exception:  # what a foreign forward does when it is watched; where it fails unwatched, too, that is raised
            self._reuse = None
            return self._plain(name, inputs, calls, look)
        if number not in self._seen or self._checked:
            self._seen.add(number)
            return found
        self._checked, plain = True, self._plain(name, inputs, calls, look)
        if len(found) != len(plain) or not all(map(torch.equal, found, plain)):
            self._reuse = None  # it computes with more than the dispatcher sees
        return plain

    def _plain(self, name: str, inputs: Tensor, calls: int, look: Callable[[int, Tensor, Tensor], Tensor]) -> list[Tensor]:
        return self._run(None, name, 0, inputs, calls, look)

    def _run(
        self,
        reuse: Reuse | None,
        name: str,
        number: int,
        inputs: Tensor,
        calls: int,
        look: Callable[[int, Tensor, Tensor], Tensor],
    ) -> list[Tensor]:
        found: list[Tensor] = []

        def see(_: str, x: Tensor, output: Tensor) -> None:
            with reuse.aside() if reuse else nullcontext():
                found.append(look(len(found), reuse.computed(x) if reuse else x, output))
            if len(found) == calls:
                raise _Enough

        with after(self._model, (name,), see), suppress(_Enough):
            if reuse is None:
                answer(self._model, inputs)
            else:
                reuse([(inputs, number)])
        return found
