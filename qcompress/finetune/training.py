"""The training itself: an optimiser on a schedule, gradients clipped, weights averaged, the best point kept.

The network stays in evaluation mode: BatchNorm statistics are what the repair left, and nothing drops out.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qcompress.finetune.contract import Length, Precision
from qcompress.finetune.drawing import Drawer
from qcompress.finetune.losses import Lesson
from qcompress.finetune.optimiser import Mover
from qcompress.finetune.schedule import factor
from qcompress.finetune.state import State, Tensors
from qcompress.frozen import answer
from qcompress.settings import Optimiser

__all__ = ["Course", "Keep", "Leg", "at_start", "begin", "loaded", "parameters", "train"]

CLIP = 2.0
"""A gradient longer than so many times the usual one is cut to that."""
_USUAL = 0.98  # of the running mean of the gradients' norm

Keep = Callable[[State], None]
"""Told where the training stands after every measurement."""


@dataclass(frozen=True, eq=False)
class Course:
    """What does not change while a network is trained.

    slim       the network as it was repaired; it is not changed
    dense      who teaches
    measure    a network's value on the judging crops, the higher the better; nan where it cannot be said
    precision  of the passes: "float32" or "bfloat16" (autocast); weights, averages and losses are float32
    optimiser  what moves the weights
    """

    slim: nn.Module
    dense: nn.Module
    draw: Drawer
    lesson: Lesson
    measure: Callable[[nn.Module], float]
    device: str
    precision: Precision
    optimiser: Optimiser = "muon"


@dataclass(frozen=True)
class Leg:
    """One schedule from its warm-up to its end: its highest rate, the teacher's share, its length, and measurements on the way.

    `patience` is how many measurements in a row without a better one end it; `decay` is of the average of the weights.
    """

    rate: float
    teaching: float
    length: Length
    points: int = 1
    patience: int = 1
    decay: float = 0.99

    def share(self, state: State, ahead: float = 0.0) -> float:
        """How much of it is over, or will be `ahead` steps later."""
        step, seconds = state.begun
        return self.length.share(state.step + ahead - step, state.seconds - seconds)

    def passed(self, state: State) -> int:
        """Measurements that are due by now."""
        return math.floor(self.share(state) * self.points + 1e-9)


def parameters(model: nn.Module) -> Tensors:
    """The parameters that are trained: all floating ones."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.is_floating_point()}


def loaded(model: nn.Module, weights: Tensors) -> nn.Module:
    """A copy of `model` with these weights."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in parameters(result).items():
            tensor.copy_(weights[name])
    return result


def begin(course: Course) -> State:
    """Before the first step."""
    return at_start(course, course.measure(course.slim))


def at_start(course: Course, value: float) -> State:
    """The same where it is known what the network is worth then."""
    weights = {name: tensor.detach().clone() for name, tensor in parameters(course.slim).items()}
    return State(weights, weights, weights, value, ((0, value),)).to(course.device)


def train(course: Course, state: State, leg: Leg, keep: Keep, progress: Callable[[State], None]) -> State:
    """`state`, trained to the end of the leg, or until nothing got better for long. `progress` is told of every step.

    Whatever `keep` or a Ctrl-C raises ends it; the state that `keep` was told last is whole.
    """
    desk = _Desk(course, state, leg)
    done = leg.passed(state)
    while state.ended is None:
        progress(state)
        state = desk.step(state)
        if leg.passed(state) > done:
            done = leg.passed(state)
            state = desk.measured(state)
            if done >= leg.points:
                state = replace(state, ended="minutes" if leg.length.steps is None else "steps")
            elif state.stale >= leg.patience:
                state = replace(state, ended="patience")
            keep(state)
    return state


class _Desk:
    """A network in training beside its average, both in place; the states that it hands out have tensors of their own."""

    def __init__(self, course: Course, state: State, leg: Leg) -> None:
        self._course, self._leg = course, leg
        self._pupil, self._average = (
            _trainable(loaded(course.slim, part), course.device) for part in (state.weights, state.average)
        )
        self._dense = _trainable(course.dense, course.device)
        self._weights, self._means = parameters(self._pupil), parameters(self._average)
        steps = state.step - state.begun[0]
        self._mover = Mover(self._pupil, self._weights, course.optimiser, state.first, state.second, steps)
        self._clock = time.monotonic() - state.seconds

    def step(self, state: State) -> State:
        """One step of the optimiser: the weights and their average move."""
        rate = self._leg.rate * factor(self._leg.share(state, ahead=0.5))
        self._mover.zero()
        loss = self._loss(state.step)
        torch.autograd.backward(loss)
        gradients = [tensor.grad for tensor in self._weights.values() if tensor.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
        typical = self._clipped(gradients, norm, state.typical)
        self._mover.step(rate)
        self._follow(state.step - state.begun[0])
        return replace(state, step=state.step + 1, seconds=time.monotonic() - self._clock, typical=typical)

    def measured(self, state: State) -> State:
        """The average is measured; where it is better than the best so far, it is that."""
        value = self._course.measure(self._average)
        better = value > state.value
        first, second = self._mover.moments()
        state = replace(
            state,
            weights=_copied(self._weights),
            average=_copied(self._means),
            first=first,
            second=second,
            history=(*state.history, (state.step, value)),
            seconds=time.monotonic() - self._clock,
            stale=0 if better else state.stale + 1,
        )
        return replace(state, best=state.average, value=value, best_step=state.step) if better else state

    @staticmethod
    def _clipped(gradients: list[Tensor], norm: float, typical: float) -> float:
        """The usual norm from now on; gradients are cut to what it allows, in place, or to nothing if not finite."""
        if not math.isfinite(norm):
            for gradient in gradients:
                gradient.zero_()
            return typical
        usual = typical or norm
        for gradient in gradients if norm > CLIP * usual else ():
            gradient.mul_(CLIP * usual / norm)
        return _USUAL * usual + (1 - _USUAL) * min(norm, CLIP * usual)

    def _loss(self, step: int) -> Tensor:
        course = self._course
        crops = course.draw(step).to(course.device)
        kind = torch.device(course.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=course.precision == "bfloat16"):
            taught = None
            if self._leg.teaching > 0:
                with torch.no_grad():
                    taught = answer(self._dense, crops.inputs).float()
            output = answer(self._pupil, crops.inputs).float()
        return course.lesson(output, crops.targets, taught, self._leg.teaching)

    def _follow(self, steps: int) -> None:
        """The average takes a part of the weights: an equal one of all until it has seen some, then the latest count."""
        part = 1 - min(self._leg.decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._means.values()), list(self._weights.values()), part)


def _trainable(model: nn.Module, device: str) -> nn.Module:
    """A copy of `model` on the device in evaluation mode, as fast as it goes there; parameters of their own, to be trained."""
    result = copy.deepcopy(model).to(device).eval()
    if all(tensor.dim() < 5 for tensor in result.parameters()):
        result = result.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for tensor in parameters(result).values():
        tensor.data = _in_order(tensor.detach()).clone()
        tensor.requires_grad_(True)
    return result


def _in_order(tensor: Tensor) -> Tensor:
    """`tensor` in one of the usual orders of memory."""
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    usual = (torch.contiguous_format, orders.get(tensor.dim(), torch.contiguous_format))
    return tensor if any(tensor.is_contiguous(memory_format=order) for order in usual) else tensor.contiguous()


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
