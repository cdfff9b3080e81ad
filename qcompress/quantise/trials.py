"""Changes that must leave what a network computes as it is: those that do, found by trial in few passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from qcompress.frozen import answer, frozen
from qcompress.surgery import relative_difference

__all__ = ["Change", "harmless"]

Change: TypeAlias = Callable[[nn.Module], None]
"""Changes a network in place, whatever the type of its numbers."""

_TOLERANCE = 1e-5


def harmless(model: nn.Module, changes: Sequence[Change], inputs: Tensor) -> list[int]:
    """The places of those `changes` that, all together, leave the outputs of `model` for `inputs` as they are, to 1e-5.

    `model` is in evaluation mode for the trial, and not changed. Where all changes fail, halves of them are tried, each
    together with those that passed. What float32 does not determine so well is judged in float64.
    """
    judge = _Judge(model, inputs)
    passed: list[int] = []

    def attempt(part: list[int]) -> None:
        if not part:
            return
        if judge.leaves([changes[place] for place in sorted((*passed, *part))]):
            passed.extend(part)
        elif len(part) > 1:
            attempt(part[: len(part) // 2])
            attempt(part[len(part) // 2 :])

    attempt(list(range(len(changes))))
    return sorted(passed)


class _Judge:
    """A network and what it returned, in float32 and, once that was needed, in float64."""

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self._model, self._inputs = model, inputs
        self._answers: dict[torch.dtype, object] = {}

    def leaves(self, changes: Sequence[Change]) -> bool:
        """Whether the network with `changes` answers as before."""
        return any(self._difference(changes, dtype) <= _TOLERANCE for dtype in (self._inputs.dtype, torch.float64))

    def _difference(self, changes: Sequence[Change], dtype: torch.dtype) -> float:
        trial = copy.deepcopy(self._model).to(dtype)
        inputs = self._inputs.to(dtype)
        with torch.no_grad(), frozen(trial):
            if dtype not in self._answers:
                self._answers[dtype] = answer(trial, inputs)
            for change in changes:
                change(trial)
            return relative_difference(answer(trial, inputs), self._answers[dtype])
