"""Prune trained PyTorch networks by QUBO, repair them, and hand back a verified slim ONNX file.

    from qcompress import Settings, load, prune

    result = prune("model.pt", Settings(sparsity=0.5), out="model.slim")
    print(result.report.metric.dense, result.report.metric.artifact)
    slim = load("model.slim")          # an ordinary nn.Module

Importing this package imports neither torch nor onnx; the first use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qcompress._version import __version__

if TYPE_CHECKING:
    from qcompress.inspection import inspect
    from qcompress.pipeline import Result, apply, prune
    from qcompress.settings import Settings
    from qcompress.slim_folder import load

__all__ = ["Result", "Settings", "__version__", "apply", "inspect", "load", "prune"]

_HOMES = {
    "Result": "qcompress.pipeline",
    "Settings": "qcompress.settings",
    "apply": "qcompress.pipeline",
    "inspect": "qcompress.inspection",
    "load": "qcompress.slim_folder",
    "prune": "qcompress.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qcompress' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
