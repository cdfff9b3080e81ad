"""What this processor can do, and the block of channels that a runtime computes in on it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Int8Support", "block", "features", "int8_support"]

_KNOWN = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm")

_INT8: Mapping[str, str] = {
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX",
    "asimddp": "ARM dot products",
    "i8mm": "ARM int8 matrix products",
}
"""Instructions that multiply and add bytes, by what the system calls them."""


@dataclass(frozen=True)
class Int8Support:
    """What int8 arithmetic can be expected to be worth on this processor.

    instructions  those that multiply and add bytes, by name
    fast          whether int8 should be faster than float32; None where the processor does not say what it has
    sentence      the same for people
    """

    instructions: tuple[str, ...]
    fast: bool | None
    sentence: str


def int8_support() -> Int8Support:
    """What this processor has for int8 arithmetic.

    That products of unsigned and signed bytes are added in 16 bits without VNNI is from onnxruntime's documentation
    (performance/model-optimizations/quantization, on U8S8 and saturation).
    """
    found = tuple(name for feature, name in _INT8.items() if feature in features())
    if not found and platform.system() == "Darwin" and platform.machine() == "arm64":
        found = (_INT8["asimddp"],)  # all processors of Apple that run macOS have them
    if found:
        return Int8Support(found, True, f"int8 should be faster than float32 here: the processor has {' and '.join(found)}")
    if not features():
        return Int8Support((), None, "whether int8 is fast here is not known: the system does not say what the processor has")
    if "asimd" in features():
        return Int8Support((), False, "int8 can be slower than float32 here: the processor has no dot products of bytes")
    return Int8Support(
        (),
        False,
        "int8 can be slower than float32 here, and less exact: the processor has no VNNI, without which "
        "onnxruntime adds products in 16 bits, which can overflow",
    )


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
