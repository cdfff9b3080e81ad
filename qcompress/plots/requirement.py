"""Whether pictures can be drawn at all, known before any work is done."""

from __future__ import annotations

import importlib.util

from qcompress.errors import UsageError

__all__ = ["INSTALL", "require"]

INSTALL = "pip install 'qcompress[plots]'"


def require() -> None:
    """Imports nothing. Raises UsageError where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib, which is not installed", INSTALL)
