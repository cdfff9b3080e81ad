"""Whether onnxruntime's integer arithmetic computes what a quantised file says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcompress.exporters.runtime import open_onnx

__all__ = ["parity_db"]


def parity_db(path: Path, images: NDArray[np.float32]) -> float:
    """How far the file as it is run is from the file as it is written, in dB of its output over the difference.

    As written, every QuantizeLinear and DequantizeLinear is executed by itself and what is between them in float32: simulated
    quantisation. As run, they are fused to integer operations. `images` (N, C, H, W) go through one at a time. Infinite where
    both are equal. What lies half way between two levels may be rounded either way, so 50 dB are good; where a layer computes
    something else, less than 45 are left. Raises InputError for a file that cannot be read or run.
    """
    run, written = open_onnx(path), open_onnx(path, literal=True)
    signal = difference = 0.0
    for image in images:
        batch = np.repeat(image[None], run.input_shape[0] or 1, axis=0)
        expected, got = written(batch).astype(np.float64), run(batch)
        signal += float((expected**2).sum())
        difference += float(((got - expected) ** 2).sum())
    if difference == 0:
        return math.inf
    return 10 * math.log10(max(signal, 1e-300) / difference)
