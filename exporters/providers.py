"""What onnxruntime can compute on here."""

from __future__ import annotations

import os

__all__ = ["available_providers"]


def available_providers() -> tuple[str, ...]:
    """Execution providers of the installed onnxruntime, best first. Raises ImportError where it cannot be loaded."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())
