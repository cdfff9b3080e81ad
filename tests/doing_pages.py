"""Runs what pages say, in one process: torch is imported once. Steps are JSON on stdin, what came of them is JSON on stdout.

A step is {"folder", "python"} or {"folder", "command"}; what comes of it is {"code", "out"}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from qcompress import latency
from qcompress.cli.main import main


def done(step: dict[str, Any]) -> dict[str, Any]:
    """Does one step in its folder: its exit code, and all that it printed."""
    os.chdir(step["folder"])
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        if "command" in step:
            code = main(step["command"])
        else:
            code = 0
            try:
                exec(compile(step["python"], "page", "exec"), {"__name__": "__page__"})
            except Exception:
                traceback.print_exc()
                code = 1
    return {"code": code, "out": out.getvalue()}


def briefly(measure: Callable[..., latency.Latency]) -> Callable[..., latency.Latency]:
    """Latency of networks this small is of no interest: a moment will do."""

    def compare(*arguments: Any, **options: Any) -> latency.Latency:
        return measure(*arguments, **{**options, "max_seconds": 0.2})

    return compare


if __name__ == "__main__":
    latency.compare = briefly(latency.compare)
    found = [done(step) for step in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(found))
