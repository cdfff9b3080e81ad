"""Which of two files is faster, on a machine that does other things too.

One after the other, on a busy machine, tells nothing: the load changes between the two. So both run in turn, in rounds of
A, B, A' (the dense network, the slim one, the dense one opened a second time), laps in random order, each timed by the CPU time
of its thread. Between files that stay open laps agree with one another more than with the next run, which may be some per cent
off (why was not looked into; where buffers come to lie in memory is one guess): every round opens all three anew, and has one
time of each, the median of its laps. The speedup is the median over rounds of sqrt(A A') / B, with the
interval between order statistics that holds the median with 95 % whatever the distribution, and A / A' says what this machine
takes for a difference where there is none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.errors import UsageError
from qcompress.exporters import RUNTIMES

__all__ = ["Judgement", "Lap", "Latency", "Opening", "Rounds", "Verdict", "WallTimes", "compare", "judge", "play"]

Verdict = Literal["faster", "slower", "no difference shown"]
Lap = Callable[[int], tuple[float, float]]  # contestant 0, 1, 2 (A, B, A') -> (counted seconds, wall seconds) of one run
Opening = Callable[[Sequence[int]], Lap]  # opens the contestants in this order

_PRECISION = 0.02  # half-width of the interval of the speedup at which measuring stops; no smaller difference is claimed
_LEAST_ROUNDS = 8  # the whole range of so few holds the median with 99 %: what looks narrow early is not that by luck
_LEAST_FOR_VERDICT = 6  # with fewer, even the whole range of the rounds is no 95 % interval of their median
_WARM_UP_SECONDS = 0.5
_LAP_SECONDS = 0.002  # a lap repeats a quick network until it takes about this long
_MOST_REPEATS = 10_000
_MOST_LAPS = 3  # of each in a round


@dataclass(frozen=True)
class WallTimes:
    """Percentiles of the wall time of one run, in milliseconds."""

    p10_ms: float
    p50_ms: float
    p90_ms: float


@dataclass(frozen=True)
class Latency:
    """Dense against slim. `speedup` is dense time over slim time; `ci95` its interval, `noise` that of dense against dense.

    `runs` are rounds, those that the intervals are over.

    `dense_ms` and `slim_ms` are medians in milliseconds of `clock` time per run; the wall times stand beside them. `verdict` is
    "faster" or "slower" only where the interval leaves 1 by more than the noise, and by more than 2 %.
    """

    dense_ms: float
    slim_ms: float
    speedup: float
    ci95: tuple[float, float]
    runs: int
    threads: int
    clock: Literal["thread", "wall"]
    dense_wall: WallTimes
    slim_wall: WallTimes
    noise: tuple[float, float]
    verdict: Verdict
    input_shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rounds:
    """Seconds per run, columns A, B, A': by the clock that counts, (rounds, 3), and on the wall, (laps of all rounds, 3)."""

    counted: NDArray[np.float64]
    wall: NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """What the rounds say."""

    speedup: float
    ci95: tuple[float, float]
    noise: tuple[float, float]
    verdict: Verdict


def compare(
    dense_path: Path,
    slim_path: Path,
    input_array: NDArray[np.float32],
    *,
    seed: int,
    threads: int = 1,
    max_seconds: float = 20.0,
    dense_runtime: str = "onnxruntime",
    slim_runtime: str = "onnxruntime",
) -> Latency:
    """Measures both files, each in one of RUNTIMES, on `input_array`, a batch (N, C, H, W) that both accept.

    With one thread the clock is the CPU time of that thread, which other processes hardly touch; with more it is the wall.
    Takes 3 to 20 s, at most `max_seconds` and one round. Files so slow that too few rounds for an interval would fit into that
    stay open, and every round is of one lap. Raises InputError for a file that cannot be read or run.
    """
    if threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    if not max_seconds > 0:
        raise UsageError(f"max_seconds must be above 0, got {max_seconds}")
    until = time.perf_counter() + max_seconds
    contestants = ((dense_runtime, dense_path), (slim_runtime, slim_path), (dense_runtime, dense_path))

    def opened(order: Sequence[int]) -> list[Callable[[], object]]:
        runs = {place: RUNTIMES[contestants[place][0]](contestants[place][1], threads).bind(input_array) for place in order}
        return [runs[place] for place in range(len(contestants))]

    opening, laps = _prepared(opened, time.thread_time_ns if threads == 1 else time.perf_counter_ns, max_seconds)
    rounds = play(opening, seed, lambda: time.perf_counter() < until, laps)
    judgement = judge(rounds.counted)
    dense, slim = rounds.wall[:, [0, 2]], rounds.wall[:, 1]
    return Latency(
        dense_ms=float(np.median(rounds.counted[:, [0, 2]])) * 1e3,
        slim_ms=float(np.median(rounds.counted[:, 1])) * 1e3,
        speedup=judgement.speedup,
        ci95=judgement.ci95,
        runs=len(rounds.counted),
        threads=threads,
        clock="thread" if threads == 1 else "wall",
        dense_wall=_wall_times(dense),
        slim_wall=_wall_times(slim),
        noise=judgement.noise,
        verdict=judgement.verdict,
        input_shape=input_array.shape,
    )


def play(opened: Opening, seed: int, go_on: Callable[[], bool], laps: int = 1) -> Rounds:
    """Rounds until the interval is tight or `go_on` says no; at least one.

    Each opens A, B, A' anew and has so many `laps` of each. Openings and laps are in fresh random orders, which depend on
    `seed` alone.
    """
    rng = seeds.stream(seed, "latency.order")
    counted: list[NDArray[np.float64]] = []
    wall: list[NDArray[np.float64]] = []
    look = _LEAST_ROUNDS
    while True:
        found = _round(opened(rng.permutation(3).tolist()), rng, laps)
        counted.append(np.median(found[..., 0], 0))
        wall.append(found[..., 1])
        done = False
        if len(counted) == look:
            judgement = judge(np.array(counted))
            low, high = judgement.ci95
            done = (high - low) / 2 < _PRECISION * judgement.speedup
            look += math.ceil(look / 4)  # the more often one looks, the sooner chance ends it
        if done or not go_on():
            return Rounds(np.array(counted), np.concatenate(wall))


def _round(lap: Lap, rng: np.random.Generator, laps: int) -> NDArray[np.float64]:
    """(laps, 3, 2) counted and wall seconds."""
    found = np.zeros((laps, 3, 2))
    for number in range(laps):
        for contestant in rng.permutation(3).tolist():
            found[number, contestant] = lap(contestant)
    return found


def judge(counted: NDArray[np.float64]) -> Judgement:
    """Speedup, interval, noise and verdict of rounds (n, 3) of positive seconds, columns A, B, A'."""
    first, slim, second = counted.T
    ratios, noise_ratios = np.sqrt(first * second) / slim, first / second
    ci95, noise = _interval(ratios), _interval(noise_ratios)
    return Judgement(float(np.median(ratios)), ci95, noise, _verdict(ci95, noise, len(counted)))


def _verdict(ci95: tuple[float, float], noise: tuple[float, float], rounds: int) -> Verdict:
    margin = max(1 + _PRECISION, noise[1], 1 / noise[0])
    if rounds < _LEAST_FOR_VERDICT:
        return "no difference shown"
    if ci95[0] > margin:
        return "faster"
    return "slower" if ci95[1] < 1 / margin else "no difference shown"


def _interval(ratios: NDArray[np.float64]) -> tuple[float, float]:
    """The narrowest pair of order statistics, alike from both ends, that holds the median with 95 %; all where rounds are few.

    The median lies below the k-th smallest of n with the probability of fewer than k heads in n tosses.
    """
    count = len(ratios)
    outside, below = 0, 0
    while 40 * (below + math.comb(count, outside)) <= 2**count:  # 2.5 % at either end
        below += math.comb(count, outside)
        outside += 1
    place = max(outside - 1, 0)
    ordered = np.sort(ratios)
    return float(ordered[place]), float(ordered[count - 1 - place])


def _prepared(
    opened: Callable[[Sequence[int]], list[Callable[[], object]]], clock: Callable[[], int], max_seconds: float
) -> tuple[Opening, int]:
    """How a round opens its files, warm, and how many laps it has; files too slow for that stay open, see `compare`."""
    start = time.perf_counter()
    runs = opened(range(3))
    opening_seconds = time.perf_counter() - start
    quickest = _warm_up(runs, min(_WARM_UP_SECONDS, max_seconds / 4))
    repeats = [max(1, min(_MOST_REPEATS, math.ceil(_LAP_SECONDS / max(best, 1e-9)))) for best in quickest]
    seconds = max(1e-9, sum(count * best for count, best in zip(repeats, quickest, strict=True)))
    opening_seconds += sum(quickest)
    share = max_seconds / 2  # the other half is for the load, of which the quickest runs know little
    if _LEAST_FOR_VERDICT * (opening_seconds + seconds) > share:
        stay = _timed(runs, repeats, clock)
        return lambda _: stay, 1
    runs.clear()  # closed before others are opened: there is memory for three at a time

    def anew(order: Sequence[int]) -> Lap:
        fresh = opened(order)
        _warm_up(fresh, 0.0)
        return _timed(fresh, repeats, clock)

    laps = math.floor((share / _LEAST_ROUNDS - opening_seconds) / seconds)
    return anew, max(1, min(_MOST_LAPS, laps))


def _warm_up(runs: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Runs all in turn for `seconds`, each once at least; the seconds of the quickest run of each."""
    until = time.perf_counter() + seconds
    quickest = [math.inf] * len(runs)
    while True:
        for number, run in enumerate(runs):
            start = time.perf_counter()
            run()
            quickest[number] = min(quickest[number], time.perf_counter() - start)
        if time.perf_counter() >= until:
            return quickest


def _timed(runs: Sequence[Callable[[], object]], repeats: Sequence[int], clock: Callable[[], int]) -> Lap:
    def lap(contestant: int) -> tuple[float, float]:
        run, count = runs[contestant], repeats[contestant]
        wall, counted = time.perf_counter_ns(), clock()
        for _ in range(count):
            run()
        counted, wall = clock() - counted, time.perf_counter_ns() - wall
        return max(counted, 1) / count / 1e9, wall / count / 1e9

    return lap


def _wall_times(seconds: NDArray[np.float64]) -> WallTimes:
    low, middle, high = (float(value) * 1e3 for value in np.quantile(seconds, (0.1, 0.5, 0.9)))
    return WallTimes(low, middle, high)
