"""The pictures that there are, by the name of their file, in the order of a report; and where they lie beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from qcompress.files import output_error

__all__ = ["CAPTIONS", "FOLDER", "forget"]

FOLDER = "plots"
"""In the folder of a run, beside report.md."""

CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "channels": "Units kept in every group, in model order; the outline is the dense width.",
        "convergence": "The best value on the selection images against the evaluations spent.",
        "surrogate": "Predicted loss (energy) against measured loss: every candidate against the best before it, and those "
        "that were measured on every image, which are the climb itself.",
        "capacity": "What each gamma of the capacity search freed, and at which energy; the numbers are the order.",
        "sparsity": "The metric on the report images against the share of units removed: median and range over the seeds.",
    }
)


def forget(folder: Path, keep: Collection[Path] = ()) -> None:
    """Removes from `folder` the pictures of an earlier run, save those to `keep`, and the folder if nothing else is in it.

    Raises:
        OutputError: no permission.

    """
    try:
        for name in CAPTIONS:
            for path in (folder / f"{name}.svg", folder / f"{name}.png"):
                if path not in keep:
                    path.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise output_error(folder, error) from error
