"""Workers that are processes of this machine, started afresh (spawn: torch does not survive a fork) and fed through pipes."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from qcompress.workers.contract import Answer, Failed, Lost, Ready, Task, Worker

__all__ = ["Processes", "serve"]

_END_SECONDS = 5.0  # what a process has to end by itself


class Processes:
    """One process for each of `devices`; each gets `parcel`, a pickled `Parcel`, once."""

    hint = 'is there enough memory? a program of your own needs `if __name__ == "__main__":` around what starts workers'

    def __init__(self, parcel: bytes, devices: Sequence[str]) -> None:
        self._parcel = parcel
        self._free = list(devices)
        self._hired = 0
        self.size = len(devices)

    def hire(self) -> _Process:
        """A process that starts; it takes the place of one that was dismissed."""
        self._hired += 1
        return _Process(f"worker {self._hired}", self._parcel, self._free)

    def answers(self, workers: Sequence[Worker], seconds: float) -> list[tuple[Worker, Answer]]:
        """See `Staff`."""
        by_pipe = {worker.connection: worker for worker in workers if isinstance(worker, _Process)}
        return [
            (by_pipe[pipe], by_pipe[pipe].answer()) for pipe in wait(list(by_pipe), seconds) if isinstance(pipe, Connection)
        ]

    def close(self) -> None:
        """Nothing is held."""


class _Process:
    """A process and the pipe to it; its device comes from `free`, and goes back there."""

    def __init__(self, name: str, parcel: bytes, free: list[str]) -> None:
        self.name = name
        self._free, self._device = free, free.pop(0)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=serve, args=(theirs, self._device), name=name, daemon=True)
        with _deaf_to_ctrl_c():
            self._process.start()
        theirs.close()  # or the end of the process would not end the pipe
        with suppress(OSError):  # it is gone already: the pipe says so when it is read
            self.connection.send_bytes(parcel)

    def give(self, task: Task) -> None:
        """See `Worker`."""
        with suppress(OSError):
            self.connection.send(task)

    def answer(self) -> Answer:
        """What has come through the pipe; the end of it is the end of the process."""
        try:
            answer: Answer = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(_END_SECONDS)
            return Lost(_ending(self._process.exitcode))
        return answer

    def dismiss(self) -> None:
        """See `Worker`."""
        self.connection.close()
        self._process.terminate()
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._free.append(self._device)


def _ending(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"killed by {name}{', as the system does when memory runs out' if name == 'SIGKILL' else ''}"


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process started inside the context never gets SIGINT, from its first moment on: it inherits the mask.

    Here, a Ctrl-C during the context arrives at its end. Windows knows no masks: there `serve` alone does it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(connection: Connection, device: str) -> None:
    """The life of a worker: it takes its parcel, says that it is ready, and answers tasks until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):  # the parent is gone or has dismissed us
        content = connection.recv_bytes()
        import torch

        from qcompress.workers.bench import portable, respond, unpack

        torch.set_num_threads(1)
        try:
            bench = unpack(pickle.loads(content), device)
            ready = Ready(bench.facts())
        except Exception as error:  # foreign code: told to the parent, which ends this process
            connection.send(Failed(portable(error)))
            return
        connection.send(ready)
        while True:
            connection.send(respond(bench, connection.recv()))
