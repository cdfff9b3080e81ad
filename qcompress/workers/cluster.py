"""Workers that are actors of a Ray cluster. Ray is imported when they are asked for, not before."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from qcompress.errors import UsageError, WorkerError
from qcompress.workers.bench import Load, Parcel, pack, portable, respond, threads, unpack
from qcompress.workers.contract import Answer, Bench, Failed, Lost, Ready, Task, Worker

__all__ = ["INSTALL", "Cluster", "check", "staff"]

_KNOCK_SECONDS = 5.0
INSTALL = "pip install 'qcompress[ray]'"


def check(address: str) -> None:
    """Raises UsageError where Ray is not installed, or cannot be used in the way that the address says."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"--ray {address}: Ray is not installed here", INSTALL)
    if address.startswith("ray://"):
        hint = "run on a machine of the cluster, with --ray auto or HOST:PORT of its head"
        raise UsageError(f"--ray {address}: the Ray Client is not supported", hint)


def staff(address: str, load: Load, workers: int | None, device: str) -> Cluster:
    """Actors at `address`, or in the cluster that this process is connected to already; the load is put there.

    Raises:
        UsageError: more workers than the cluster has CPUs (for cuda: GPUs), or a network that cannot be sent.
        WorkerError: no cluster there.

    """
    parcel = pack(load.on_cpu(), from_here=False, dumps=_by_value)
    ours = _connected(address)
    try:
        return Cluster(parcel, _number(workers, device), device, ours)
    except BaseException:
        if ours:
            _ray().shutdown()
        raise


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when a cluster is started
    import ray

    return ray


def _connected(address: str) -> bool:
    """Connects, unless that has been done; whether it was done here."""
    ray = _ray()
    if ray.is_initialized():
        return False
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        told = " ".join(str(error).split())[:300]
        raise WorkerError(
            f"--ray {address}: no cluster there that can be used: {told}", "`ray start --head` starts one"
        ) from error
    return True


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray would try for minutes. "auto" is looked up where Ray does it."""
    if address == "auto":
        noted = Path("/tmp/ray/ray_current_cluster")
        address = os.environ.get("RAY_ADDRESS") or (noted.read_text().strip() if noted.is_file() else "")
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


def _number(workers: int | None, device: str) -> int:
    kind = "GPU" if device == "cuda" else "CPU"
    there = int(_ray().cluster_resources().get(kind, 0))
    if (workers or 1) > there:
        raise UsageError(f"{workers or 1} workers, but the Ray cluster has {there} {kind}s", f"at most one for each {kind}")
    return workers or there


class Cluster:
    """Actors that take a CPU each (and a GPU where the device is cuda); the parcel is put into the object store once."""

    hint = "is the same qcompress installed on every machine of the cluster?"

    def __init__(self, parcel: Parcel, size: int, device: str, ours: bool) -> None:
        self._ray = _ray()
        self.size = size
        self._parcel = self._ray.put(parcel)
        self._device, self._ours = device, ours
        gpus = 1 if device == "cuda" else 0
        # what Ray would do by itself about a lost actor is left to the pool
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        self._make = self._ray.remote(**options)(_Holder)
        self._hired = 0

    def hire(self) -> _Actor:
        """An actor that starts, as soon as the cluster has room for it."""
        self._hired += 1
        return _Actor(f"actor {self._hired}", self._make.remote(self._parcel, self._device), self._ray)

    def answers(self, workers: Sequence[Worker], seconds: float) -> list[tuple[Worker, Answer]]:
        """See `Staff`. That an idle actor is lost shows when it is given a task."""
        pending = {worker.pending: worker for worker in workers if isinstance(worker, _Actor) and worker.pending is not None}
        there, _ = self._ray.wait(list(pending), num_returns=1, timeout=seconds)
        return [(pending[reference], pending[reference].answer()) for reference in there]

    def close(self) -> None:
        """Leaves the cluster where `staff` has joined it."""
        del self._parcel
        if self._ours:
            self._ray.shutdown()


class _Actor:
    """The handle of an actor, and the reference to what it is at."""

    def __init__(self, name: str, handle: Any, ray: Any) -> None:
        self.name, self._handle, self._ray = name, handle, ray
        self.pending = handle.start.remote()

    def give(self, task: Task) -> None:
        """See `Worker`."""
        self.pending = self._handle.do.remote(task)

    def answer(self) -> Answer:
        """What has come; an error of Ray's own is the end of the actor."""
        reference, self.pending = self.pending, None
        try:
            answer: Answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Lost(lines[-1][:300] if lines else type(error).__name__)
        return answer

    def dismiss(self) -> None:
        """See `Worker`."""
        with suppress(Exception):  # it may be gone, and the cluster with it
            self._ray.kill(self._handle)


class _Holder:
    """The life of a worker, in an actor. Nothing is raised: what leaves Ray as an error is the loss of the actor."""

    def __init__(self, parcel: Parcel, device: str) -> None:
        self._parcel: Parcel | None = parcel
        self._device = device
        self._bench: Bench | None = None

    def start(self) -> Answer:
        parcel, self._parcel = self._parcel, None
        assert parcel is not None
        with suppress(ValueError):  # outside of the main thread; then Ctrl-C does not come here either
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with threads(1):
                self._bench = unpack(parcel, self._device)
                return Ready(self._bench.facts())
        except Exception as error:  # foreign code: told to the one who asked
            return Failed(portable(error))

    def do(self, task: Task) -> Answer:
        assert self._bench is not None
        with threads(1):
            return respond(self._bench, task)


def _by_value(load: Load) -> bytes:
    """The load pickled with the code of the user's own modules in it, which other machines need not have."""
    pickler = _ray().cloudpickle
    own = [module for module in tuple(sys.modules.values()) if _is_users(module)]
    for module in own:
        pickler.register_pickle_by_value(module)
    try:
        content: bytes = pickler.dumps(load)
        return content
    finally:
        for module in own:
            pickler.unregister_pickle_by_value(module)


def _is_users(module: ModuleType) -> bool:
    """Whether it lies in the current folder or beside the program, and is not installed."""
    name, file = module.__name__.partition(".")[0], getattr(module, "__file__", None)
    if not file or name in ("qcompress", "__main__") or sys.modules.get(module.__name__) is not module:
        return False
    path = Path(file).resolve()
    homes = [Path.cwd(), *(Path(folder).resolve() for folder in sys.path[:1] if folder)]
    installed = {"site-packages", "dist-packages"}.intersection(path.parts) or path.is_relative_to(sysconfig.get_path("stdlib"))
    return any(path.is_relative_to(home) for home in homes) and not installed
