"""Which crew a run has, by its settings, and which combinations are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from qcompress.errors import UsageError
from qcompress.workers import contract
from qcompress.workers.alone import Alone
from qcompress.workers.bench import Bench, Load, pack, threads
from qcompress.workers.contract import Crew, Facts
from qcompress.workers.pool import Pool
from qcompress.workers.processes import Processes

__all__ = ["Wanted", "hired", "processes"]


@dataclass(frozen=True)
class Wanted:
    """What the settings say of workers.

    workers    how many; None: this process in as many threads as torch takes; 1: this process in one thread
    ray        the address of a Ray cluster, where they are its actors; None: processes of this machine
    device     cpu, cuda ...: of the run
    from_here  whether the user has named code that may lie in the current folder
    """

    workers: int | None = None
    ray: str | None = None
    device: str = "cpu"
    from_here: bool = False

    def check(self) -> None:
        """Raises UsageError for what cannot be, before work begins."""
        if self.ray is not None:
            from qcompress.workers import cluster

            cluster.check(self.ray)
        elsewhere = self.ray is not None or (self.workers or 1) > 1
        if elsewhere and self.device not in ("cpu", "cuda"):
            hint = "workers share out the GPUs themselves: --device cuda"
            raise UsageError(f"workers compute on cpu or cuda, got --device {self.device}", hint)
        if self.ray is None and self.device.partition(":")[0] == "cuda" and torch.cuda.device_count() == 0:
            raise UsageError(f"--device {self.device}: no CUDA device here", "--device cpu works everywhere")
        if self.ray is None and self.device == "cuda" and (self.workers or 1) > torch.cuda.device_count():
            raise UsageError(
                f"{self.workers} workers for {torch.cuda.device_count()} GPUs: on cuda each worker has a GPU of its own",
                "as many --workers as GPUs, or --device cpu",
            )


@contextmanager
def hired(wanted: Wanted, load: Callable[[], Load], say: Callable[[str], None]) -> Iterator[Crew]:
    """The crew for a run. Workers start at its first task and have ended when the context ends.

    `load` gives what they need, on the device of the run; its parts are not changed. `say` is told what the user should know.

    Raises:
        UsageError: the network cannot be sent to workers.
        WorkerError: no workers can be had.

    """
    if wanted.ray is None and (wanted.workers or 1) == 1:
        yield Alone(lambda: Bench(load()), wanted.workers)
        return
    pool = _pool(wanted, load(), say)
    try:
        yield pool
    finally:
        pool.close()


def _pool(wanted: Wanted, load: Load, say: Callable[[str], None]) -> Pool:
    if wanted.ray is not None:
        from qcompress.workers import cluster

        return Pool(cluster.staff(wanted.ray, load, wanted.workers, wanted.device), _own(lambda: Bench(load)), say)
    count = wanted.workers or 1
    devices = [f"cuda:{number}" for number in range(count)] if wanted.device == "cuda" else [wanted.device] * count
    parcel = pickle.dumps(pack(load.on_cpu(), from_here=wanted.from_here))
    return Pool(Processes(parcel, devices), _own(lambda: Bench(load)), say)


@contextmanager
def processes(load: contract.Load, number: int, *, from_here: bool, say: Callable[[str], None]) -> Iterator[Pool]:
    """`number` processes of this machine that work on `load`, on the CPU.

    Raises UsageError where the load cannot be sent to them.
    """
    parcel = pickle.dumps(pack(load, from_here=from_here))
    pool = Pool(Processes(parcel, ["cpu"] * number), _own(lambda: load.bench("cpu")), say)
    try:
        yield pool
    finally:
        pool.close()


def _own(bench: Callable[[], contract.Bench]) -> Callable[[], Facts]:
    """The facts of this process, computed as a worker does."""

    def own() -> Facts:
        with threads(1):
            return bench().facts()

    return own
