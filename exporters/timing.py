#!/usr/bin/env python3
"""Times small ONNX models on the machine that it runs on: `python timing.py jobs.json -o edge.json`.

This file needs nothing but numpy and onnxruntime, so that it can be copied to a device. `qcompress profile --script` writes the
jobs; `qcompress prune --latency-table edge.json` takes what comes out. On a busy machine only the CPU time of one's own thread
tells something: with one thread that is the clock. What other processes do to caches and memory can only slow a model down:
the jobs run in rounds, each in another order; of a round the quickest of a few laps counts, of the rounds the lower quartile.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["device", "main", "measure"]

ROUNDS = 5
LEAST_ROUNDS = 3
LEAST_LAPS = 3
LAPS_SECONDS = 0.02  # a model runs lap after lap for this long in each round
LAP_SECONDS = 0.002  # a quick model runs again within a lap until it takes about this long
QUARTILE = 0.25
MOST_RUNS = 64
FOLDED = str(2**30)  # bytes that a constant may grow to when a model is opened: the weights are such constants

Job = tuple[bytes, tuple[int, ...]]


def measure(
    jobs: Sequence[Job], *, threads: int = 1, seconds: float = 240.0, told: Callable[[float, str], None] | None = None
) -> list[float | None]:
    """Nanoseconds of one run of each undisturbed (model, shape of its float32 input); None for a model that cannot run.

    `ROUNDS` rounds, or as many as fit into `seconds`, but `LEAST_ROUNDS`. With one thread the clock is its CPU time, else the
    wall. `told` hears of the share done, 0..1.
    """
    rng = np.random.default_rng(0)
    times: list[list[float]] = [[] for _ in jobs]
    failed: set[int] = set()
    until = time.monotonic() + seconds
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.monotonic() > until:
            break
        for place, job in enumerate(rng.permutation(len(jobs)).tolist()):
            if told:
                told((number + place / len(jobs)) / ROUNDS, f"round {number + 1} of {ROUNDS}, {len(jobs)} models")
            if job in failed:
                continue
            try:
                model, shape = jobs[job]
                times[job].append(_quickest(model, shape, threads, rng))
            except Exception:  # onnxruntime's exceptions have no common base
                failed.add(job)
    return [float(np.quantile(found, QUARTILE)) if found and job not in failed else None for job, found in enumerate(times)]


def device() -> dict[str, str]:
    """What this machine calls itself."""
    return {
        "processor": _processor()[:200],
        "system": f"{platform.system()} {platform.machine()}"[:200],
        "onnxruntime": str(_onnxruntime().__version__)[:50],
    }


def _quickest(model: bytes, shape: tuple[int, ...], threads: int, rng: np.random.Generator) -> float:
    """Nanoseconds of one run in the quickest lap, after runs that do not count."""
    run = _opened(model, shape, threads, rng)
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    run()
    started = time.perf_counter()
    run()
    repeats = int(min(MOST_RUNS, max(1.0, LAP_SECONDS / max(time.perf_counter() - started, 1e-6))))
    laps: list[float] = []
    until = time.perf_counter() + LAPS_SECONDS
    while len(laps) < LEAST_LAPS or time.perf_counter() < until:
        before = clock()
        for _ in range(repeats):
            run()
        laps.append(max(clock() - before, 1) / repeats)
    return min(laps)


def _opened(model: bytes, shape: tuple[int, ...], threads: int, rng: np.random.Generator) -> Callable[[], object]:
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", FOLDED)
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = rng.random(shape, np.float32)
    name = session.get_outputs()[0].name
    (output,) = session.run([name], {"input": image})
    binding = session.io_binding()
    binding.bind_ortvalue_input("input", runtime.OrtValue.ortvalue_from_numpy(image))
    binding.bind_ortvalue_output(name, runtime.OrtValue.ortvalue_from_numpy(output))
    return lambda: session.run_with_iobinding(binding)


def _onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "hardware")))
    return next(named, "") or platform.processor() or platform.machine() or "unknown"


def main(arguments: list[str] | None = None) -> int:
    """The command line of the script."""
    parser = argparse.ArgumentParser(description="Time the models of a jobs file for qcompress.")
    parser.add_argument("jobs", type=Path, help="the file that `qcompress profile --script` wrote")
    parser.add_argument("-o", "--out", type=Path, default=Path("edge.json"), help="the table to write (default: edge.json)")
    parser.add_argument("--seconds", type=float, default=240.0, help="time after which no further round begins")
    options = parser.parse_args(arguments)
    try:
        given = json.loads(options.jobs.read_text(encoding="utf-8"))
        jobs = [(base64.b64decode(job["model"]), tuple(job["shape"])) for job in given["jobs"]]
        threads = given["plan"]["threads"]
    except OSError as error:
        return _failed(f"{options.jobs}: cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError, RecursionError):
        return _failed(f"{options.jobs}: not a jobs file of qcompress profile --script")
    existed = options.out.exists()
    try:
        options.out.open("a").close()  # before minutes are spent; what is there stays until there is a table
    except OSError as error:
        return _failed(f"{options.out}: cannot be written: {error.strerror}")
    written = existed
    try:
        times = measure(jobs, threads=threads, seconds=options.seconds, told=_told)
        missing = sum(found is None for found in times)
        sys.stderr.write("\n")
        if missing == len(times):
            return _failed(f"none of {len(times)} models ran: nothing is written")
        table = {**given["plan"], "device": device(), "times_ns": times}
        options.out.write_text(json.dumps(table) + "\n", encoding="utf-8")
        written = True
    except OSError as error:
        return _failed(f"{options.out}: cannot be written: {error.strerror}")
    finally:
        if not written:  # Ctrl-C, too, is to leave no file that is no table
            options.out.unlink(missing_ok=True)
    sys.stderr.write(f"{len(times) - missing} of {len(times)} models timed, written to {options.out}\n")
    return 0


def _told(done: float, note: str) -> None:
    sys.stderr.write(f"\r{100 * done:3.0f} %  {note}  ")


def _failed(reason: str) -> int:
    sys.stderr.write(f"error: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
