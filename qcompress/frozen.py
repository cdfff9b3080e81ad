"""A network that only computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["answer", "evaluating", "frozen"]


def answer(model: nn.Module, *inputs: Tensor) -> Any:
    """What `model` returns for copies of `inputs`: some networks write into theirs (x *= 255)."""
    return model(*(x.clone() for x in inputs))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the context, `model` is in evaluation mode; outside, each module is in the mode it was in."""
    training = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, flag in training.items():
            module.training = flag


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the context, `model` is in evaluation mode and no parameter requires a gradient; outside, it is as before."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with evaluating(model):
            yield model
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
