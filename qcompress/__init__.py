"""Prune trained PyTorch networks by QUBO, repair them, and hand back a verified slim ONNX file.

    from qcompress import Settings, load, prune, save

    result = prune("model.pt", Settings(sparsity=0.5), out="model.slim")
    print(result.report.metric.dense, result.report.metric.artifact)
    slim = load("model.slim")          # an ordinary nn.Module: train it as you like
    save(slim, "model.slim")           # its weights take the place of those in the folder; `qcompress export` writes them

    result = prune(module, example, sparsity=0.5, data=(noisy, clean), out="own.slim")     # any nn.Module, which stays as it is
    slim = load("own.slim", into=module)
    groups = trace(module, example)    # what could be removed together, and what is kept whole and why

Importing this package imports neither torch nor onnx; the first use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qcompress._version import __version__

if TYPE_CHECKING:
    from qcompress.compressing import compress
    from qcompress.inspection import inspect
    from qcompress.live import prune, trace
    from qcompress.pipeline import Result, apply
    from qcompress.saving import save
    from qcompress.settings import Settings
    from qcompress.slim_folder import load

__all__ = ["Result", "Settings", "__version__", "apply", "compress", "inspect", "load", "prune", "save", "trace"]

_HOMES = {
    "Result": "qcompress.pipeline",
    "Settings": "qcompress.settings",
    "apply": "qcompress.pipeline",
    "compress": "qcompress.compressing",
    "inspect": "qcompress.inspection",
    "load": "qcompress.slim_folder",
    "prune": "qcompress.live",
    "save": "qcompress.saving",
    "trace": "qcompress.live",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qcompress' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
