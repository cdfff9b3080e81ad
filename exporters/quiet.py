"""Keeps what foreign libraries print, in Python and in C, from the user's terminal and from JSON on stdout."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

__all__ = ["silent"]

_STDOUT, _STDERR = 1, 2  # file descriptors


@contextmanager
def silent(loggers: Iterable[str] = ()) -> Iterator[None]:
    """Nothing that is printed, warned or logged (to `loggers`) in the block is seen; exceptions are as always."""
    named = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in named]
    _flush()
    kept = [os.dup(number) for number in (_STDOUT, _STDERR)]
    with tempfile.TemporaryFile() as sink:
        try:
            for number in (_STDOUT, _STDERR):
                os.dup2(sink.fileno(), number)
            for logger in named:
                logger.setLevel(logging.CRITICAL)  # JAX takes no level that has no name
            nowhere = io.StringIO()  # for streams of Python that do not lead to the descriptors
            with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
                warnings.simplefilter("ignore")
                yield
        finally:
            _flush()
            for number, copy in zip((_STDOUT, _STDERR), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            for logger, level in zip(named, levels, strict=True):
                logger.setLevel(level)


def _flush() -> None:
    """What Python and C hold back for the two streams goes out, to where they lead now."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
