"""The output folder: claimed before the work begins, filled in one go when it is done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qcompress.errors import OutputError
from qcompress.files import output_error

__all__ = ["claim", "staging"]


def claim(folder: Path) -> Path:
    """`folder`, made if needed and known to be writable: better to learn that now than after minutes of work.

    Raises:
        OutputError: it cannot be made or written to, or is a file.

    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, expected a folder to write to", "choose another folder with --out")
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if made:
            folder.rmdir()  # a run that fails leaves no empty folder behind
    except OSError as error:
        raise output_error(folder, error) from error
    return folder


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder`. When the block ends well its files replace those of the same name; else it vanishes.

    Raises:
        OutputError: a file could not be written or moved.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        yield stage
        for path in sorted(stage.iterdir()):
            try:
                path.replace(folder / path.name)
            except OSError as error:
                raise output_error(folder / path.name, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()
