"""Every error that qcompress raises on purpose, with the exit code the command line maps it to."""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArchitectureError",
    "BackendError",
    "CheckpointError",
    "DataError",
    "ExportError",
    "InputError",
    "InterruptedRunError",
    "OutputError",
    "PlanError",
    "QCompressError",
    "ResumeError",
    "SurgeryError",
    "ThresholdMissedError",
    "UsageError",
    "WorkerError",
]


class QCompressError(Exception):
    """Base of all errors raised on purpose.

    `message` is one line that names the thing, the value got and the value expected; `hint` is the next step.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(QCompressError, ValueError):
    """An option or argument outside its range, or a combination that makes no sense."""

    exit_code = 2


class InputError(QCompressError, ValueError):
    """Something given to us cannot be used."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint that is missing, truncated, foreign, unsafe or carries non-finite weights."""


class ArchitectureError(InputError):
    """A network that was not recognised, could not be built, or could not be traced."""


class DataError(InputError):
    """Images that are missing, unpaired, too small, or of the wrong number of channels."""


class PlanError(InputError):
    """A plan that is corrupt, or that belongs to another checkpoint."""


class ResumeError(InputError):
    """What an earlier run left to go on from is in the way, damaged, or of another run; or that run is complete."""


class OutputError(QCompressError, OSError):
    """A result could not be written; nothing half-written is left behind."""

    exit_code = 3


class ThresholdMissedError(QCompressError):
    """The run is complete, but a limit the user set (`--max-drop`, `--min-speedup`) is not met."""

    exit_code = 4


class BackendError(QCompressError, RuntimeError):
    """A solver failed, is not installed, or cannot be reached; or the package of a format or a runtime is not installed."""

    exit_code = 5


class WorkerError(QCompressError, RuntimeError):
    """Workers cannot be had, differ from this process, or are lost again and again."""

    exit_code = 5


class InterruptedRunError(QCompressError):
    """Ctrl-C before there was a selection to finish with; the hint says where scores were kept, if any."""

    exit_code = 130


class SurgeryError(QCompressError, RuntimeError):
    """A post-condition of surgery failed: the slim network is not the masked one. A bug, never the user's fault."""


class ExportError(QCompressError, RuntimeError):
    """The exporter refused the network, or wrote something other than what was asked."""
