"""What this processor can do, and the block of channels that a runtime computes in on it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["block", "features"]

_KNOWN = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm")


@cache
def features() -> tuple[str, ...]:
    """Those of the vector extensions that matter here which the processor has; empty where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return tuple(feature for feature in _KNOWN if feature in line.split())


def block() -> int:
    """Channels that ONNX Runtime computes at a time: 16 with AVX-512 and on ARM64, 8 with AVX2 and where it is not known.

    From onnxruntime's source (the NCHWc kernels of its CPU provider), and from measurements (docs/benchmarks.md).
    """
    arm = platform.machine().lower() in ("aarch64", "arm64")
    return 16 if arm or "avx512f" in features() else 8
