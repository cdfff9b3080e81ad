"""Passes of a network one layer of which is exchanged at a time: what comes before that layer is not computed again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qcompress.frozen import answer
from qcompress.quantise.simulate import InEightBits
from qcompress.recover.moments import affine
from qcompress.reuse import LIMIT, Reuse
from qcompress.surgery import outputs_of

__all__ = ["Exchange", "Exchanging"]

_USED = 3  # the pass that first finds what is kept: it is kept when it is computed for the second time


@dataclass(frozen=True, eq=False)
class Exchange:
    """Other parameters for a layer, and what rounds its input."""

    weight: nn.Parameter
    bias: nn.Parameter
    levels: InEightBits | None


class Exchanging:
    """A copy of `model`, in evaluation mode, and the inputs (N, ...) that it runs on, `batch` at a time.

    Operations whose inputs and weights are those of an earlier pass are not done again (`reuse.Reuse`, which keeps at most
    `limit` bytes; 0: all are done); the values are the same to the last bit. A network that cannot be followed is run
    without: the third pass is made both ways, to see whether it can.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, batch: int, limit: int = LIMIT) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._inputs, self._batch = inputs, batch
        self._reuse = Reuse(self._model, limit) if limit else None
        self._passes = 0

    @property
    def reuses(self) -> bool:
        """Whether earlier results are used."""
        return self._reuse is not None

    def __call__(self, name: str | None, exchange: Exchange | None) -> list[Any]:
        """What the network returns for each batch with layer `name` exchanged; for None as it is."""
        self._passes += 1
        with torch.no_grad(), self._exchanged(name, exchange) if name and exchange else nullcontext():
            found = self._run()
            if self._passes == _USED and self._reuse is not None:
                plain = self._plain()
                if not _same(found, plain):
                    self._reuse = None
                return plain
        return found

    def _run(self) -> list[Any]:
        if self._reuse is None:
            return self._plain()
        try:
            return [self._reuse([(part, number)]) for number, part in enumerate(self._parts())]
        except Exception:  # what a foreign forward does when it is watched; where it fails unwatched, too, that is raised
            self._reuse = None
            return self._plain()

    def _plain(self) -> list[Any]:
        return [answer(self._model, part) for part in self._parts()]

    def _parts(self) -> tuple[Tensor, ...]:
        return torch.split(self._inputs, self._batch)

    @contextmanager
    def _exchanged(self, name: str, exchange: Exchange) -> Iterator[None]:
        module = affine(self._model, name)
        own = module.weight, module.bias
        handle = module.register_forward_pre_hook(exchange.levels) if exchange.levels else None
        module.weight, module.bias = exchange.weight, exchange.bias
        try:
            yield
        finally:
            module.weight, module.bias = own
            if handle:
                handle.remove()


def _same(found: object, others: object) -> bool:
    """Whether all tensors of what a network returned are equal to the last bit."""
    ours, theirs = outputs_of(found), outputs_of(others)
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
