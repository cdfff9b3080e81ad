"""A gate for a build: prune, and fail with the reasons where the slim network is too bad or not fast enough.

    python examples/ci_gate.py [CHECKPOINT] [--metric auto] [--max-drop 1.5] [--min-speedup 1.1] [--sparsities 0.6 0.5 0.4]
                               [--out gate.slim]

Exits with 0 where all limits are met, with 4 where one is missed, and with the exit code of the error where there was one, as
`qcompress prune` does. What a program adds is the choice: here the sparsity is lowered until the limits are met. The ONNX file
has a fixed size, as a device that sees one size wants it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import qcompress
from qcompress import Result, Settings
from qcompress.errors import QCompressError
from qcompress.settings import ExportOptions, Limits, RefineOptions, VerifyOptions


def gated(checkpoint: str, sparsities: Sequence[float], settings: Settings, out: Path) -> Result:
    """The first result that meets the limits of `settings`, or the last one."""
    for sparsity in sparsities:
        result = qcompress.prune(checkpoint, settings, sparsity=sparsity, out=out)
        print(f"sparsity {sparsity}: {'; '.join(result.report.reasons) or 'all limits are met'}")
        if result.exit_code == 0:
            break
    return result


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="reference")
    parser.add_argument("--metric", default="auto")
    parser.add_argument("--max-drop", type=float, default=1.5)
    parser.add_argument("--min-speedup", type=float)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.6, 0.5, 0.4])
    parser.add_argument("--out", type=Path, default=Path("gate.slim"))
    asked = parser.parse_args()
    settings = Settings(
        metric=asked.metric,
        refine=RefineOptions(evaluations=0),
        export=ExportOptions(dynamic=False),
        verify=VerifyOptions(size=64, max_seconds=1),
        limits=Limits(asked.max_drop, asked.min_speedup),
    )
    try:
        return gated(asked.checkpoint, asked.sparsities, settings, asked.out).exit_code
    except QCompressError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
