"""Cells of a benchmark in several processes: kept one file each, so that a run that was stopped goes on where it was.

The cells of one network and seed share a bench, and so a process; they may be dealt in pieces to several, which open it anew.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from selection_bench import Bench, Options, open_bench
from selection_cells import Outcome

__all__ = ["Item", "Plan", "measure", "options_of", "pixels_on", "run", "unfinished"]

T = TypeVar("T")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Item(Protocol):
    """What has a file of its own."""

    @property
    def network(self) -> str:
        """Of `NETWORKS`."""

    @property
    def seed(self) -> int:
        """Of the bench."""

    def path(self, out: Path) -> Path:
        """The file of its outcome in the folder `out`."""

    def measure(self, bench: Bench) -> Outcome:
        """What is to be found out. Raises whatever fails."""

    def failure(self, reason: str) -> Outcome:
        """What is recorded instead."""


@dataclass(frozen=True)
class Plan:
    """How to run: processes of one thread each, pieces per bench, and seconds since the epoch after which nothing is begun."""

    out: Path
    jobs: int = 1
    pieces: int = 1
    until: float | None = None

    def late(self) -> bool:
        """Whether nothing is to be begun any more."""
        return self.until is not None and time.time() > self.until


def options_of(given: argparse.Namespace) -> Options:
    """What a command line with --shared-data, --device, --crops and --report-images says of the benches."""
    calibration, selection = given.crops or (None, None)
    return Options(
        given.shared_data.resolve(),
        given.device,
        calibration_crops=calibration,
        selection_crops=selection,
        report_images=given.report_images,
        pixels=pixels_on(given.device),
    )


def pixels_on(device: str) -> int:
    """Of all crops that go through a network at once."""
    return (8 if device == "cpu" else 16) * 96 * 96


def measure(given: argparse.Namespace, items: Iterable[Item], options: Options) -> None:
    """Measures what is missing of `items`, as --out, --retry, --jobs, --pieces and --minutes say."""
    until = None if given.minutes is None else time.time() + 60 * given.minutes
    run(unfinished(items, given.out, given.retry), options, Plan(given.out, given.jobs, given.pieces, until))


def unfinished(items: Iterable[Item], out: Path, retry: bool) -> list[Item]:
    """The items without a file; with `retry` also those whose file records a failure."""
    return [item for item in items if not item.path(out).is_file() or (retry and _failed(item.path(out)))]


def run(items: Sequence[Item], options: Options, plan: Plan) -> None:
    """Measures and files all `items`; says on standard output how far it is."""
    by_bench: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        by_bench.setdefault((item.network, item.seed), []).append(item)
    pieces = [piece for found in by_bench.values() for number in range(plan.pieces) if (piece := found[number :: plan.pieces])]
    os.environ |= dict.fromkeys(_THREADS, "1")  # which the processes inherit
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(plan.jobs, context, initializer=_settle) as pool:
        for done in as_completed([pool.submit(_work, piece, options, plan) for piece in pieces]):
            print(done.result(), flush=True)


def _settle() -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # dense and slim are compared to float32's precision


def _work(items: Sequence[Item], options: Options, plan: Plan) -> str:
    """Opens the bench of `items` and measures them; a sentence for people."""
    first, began = items[0], time.perf_counter()
    name = f"{first.network}, seed {first.seed}"
    if plan.late():
        return f"{name}: out of time"
    bench = _attempt(lambda: open_bench(first.network, options, first.seed))
    if isinstance(bench, str):
        for item in items:
            _file(item.path(plan.out), item.failure(bench))
        return f"{name}: {bench}"
    opened = time.perf_counter() - began
    failures = done = 0
    for item in items:
        if plan.late():
            break
        outcome = _attempt(lambda item=item: item.measure(bench))  # type: ignore[misc]
        failures += isinstance(outcome, str)
        _file(item.path(plan.out), item.failure(outcome) if isinstance(outcome, str) else outcome)
        done += 1
    seconds = time.perf_counter() - began
    found = f"dense {bench.dense:.3f} (given {bench.given:.3f}) {bench.metric.unit}"
    return f"{name}: {found}; {done} of {len(items)} in {seconds:.0f} s, {opened:.0f} s to open, {failures} failed"


def _attempt(step: Callable[[], T]) -> T | str:
    """What `step` returns, or why it failed: one cell must not end the others."""
    try:
        return step()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _file(path: Path, outcome: Outcome) -> None:
    """Written aside and renamed: a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.part")
    aside.write_text(outcome.model_dump_json(indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def _failed(path: Path) -> bool:
    return json.loads(path.read_text(encoding="utf-8"))["failed"] is not None
