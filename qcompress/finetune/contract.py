"""What fine-tuning is told, and what it gives back: plain values, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from qcompress.settings import Optimiser

__all__ = ["ENDINGS", "Ended", "Length", "Precision", "Recipe", "TrainResult"]

Precision = Literal["float32", "bfloat16"]
"""Of the passes."""

Ended = Literal["steps", "minutes", "patience", "interrupt"]
"""What ended a training: its length, that nothing got better any more, or Ctrl-C."""

ENDINGS: tuple[Ended, ...] = get_args(Ended)


@dataclass(frozen=True)
class Length:
    """So many steps of the optimiser, or so many seconds of the clock."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("a length is in steps or in seconds")

    def share(self, steps: float, seconds: float) -> float:
        """How much of it is over after so many steps and seconds: 0 to 1."""
        done = steps / self.steps if self.steps is not None else seconds / (self.seconds or 1.0)
        return min(done, 1.0)

    def part(self, share: float) -> Length:
        """The same of `share` of it, at least one step."""
        if self.steps is not None:
            return Length(steps=max(1, round(share * self.steps)))
        return Length(seconds=share * (self.seconds or 0.0))


@dataclass(frozen=True)
class Recipe:
    """How one training goes. `rate` and `teaching` are None where they are to be tried out.

    rate       the highest learning rate of its schedule
    teaching   share of the loss that comes from the dense network's outputs; the rest comes from the targets
    batch      crops (images with a class) of one step
    crop       their side in pixels; None for images that are taken whole
    optimiser  what moves the weights
    points     how often the network is measured on the judging crops, evenly over the length
    patience   measurements in a row without a better one that end it
    decay      of the average of the weights, once it has seen some
    """

    rate: float | None
    teaching: float | None
    batch: int
    crop: int | None
    optimiser: Optimiser = "muon"
    points: int = 24
    patience: int = 12
    decay: float = 0.99


@dataclass(frozen=True)
class TrainResult:
    """What a training did. Values are the chooser's, on the judging crops, in its unit; `best` is never worse than `start`.

    rate       the highest learning rate; where Ctrl-C came in the trials that of the best one so far, None if none gained
    teaching   share of the loss that came from the dense network's outputs, None alike
    tried      (rate, teaching, value) of the short trials that they were chosen by
    optimiser  what moved the weights
    steps      of the optimiser that led to it, those of the best trial included; `seconds` of the clock, over all runs it took
    best_step  when the network that is kept was measured, 0: before the first step
    history    (step, value) of every measurement
    """

    rate: float | None
    teaching: float | None
    tried: tuple[tuple[float, float, float], ...]
    steps: int
    seconds: float
    batch: int
    crop: int | None
    precision: Precision
    optimiser: Optimiser
    start: float
    best: float
    best_step: int
    history: tuple[tuple[int, float], ...]
    ended: Ended

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to go on with."""
        return self.ended != "interrupt"
