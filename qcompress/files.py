"""Writing a file so that it is either whole or not there: written aside in the same folder, synced, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qcompress.errors import OutputError

__all__ = ["claim_file", "output_error", "write_aside", "write_bytes", "write_text"]

_CAUSES = {
    errno.EACCES: ("no permission to write there", "choose another folder with --out, or change its permissions"),
    errno.EPERM: ("no permission to write there", "choose another folder with --out, or change its permissions"),
    errno.EROFS: ("the file system is read-only", "choose another folder with --out"),
    errno.ENOSPC: ("no space left", "free some space, or choose a folder on another disk with --out"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or choose a folder on another disk with --out"),
    errno.EFBIG: ("the file is larger than allowed there", "raise the limit (ulimit -f), or choose another disk with --out"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another folder with --out"),
    errno.EEXIST: ("a part of the path is a file, not a folder", "choose another folder with --out"),
    errno.EISDIR: ("it is a folder, expected a file name", "remove the folder, or choose another name"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
}


def output_error(path: Path, error: OSError) -> OutputError:
    """What the failure to write `path` means for the user, and what to do."""
    cause, hint = _CAUSES.get(error.errno or 0, (error.strerror or type(error).__name__, "choose another folder with --out"))
    return OutputError(f"cannot write {path}: {cause}", hint)


def _create_aside(target: Path) -> Path:
    """An empty new file next to `target`, hidden, with its ending (writers that look at the ending see the right one)."""
    if target.is_dir():
        raise OutputError(f"cannot write {target}: {_CAUSES[errno.EISDIR][0]}", _CAUSES[errno.EISDIR][1])
    if target.exists() and not target.is_file():  # a device or a pipe would be replaced by the rename
        raise OutputError(f"cannot write {target}: it is not a regular file", "choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(4)}{target.suffix}")
    os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # so that the user's umask decides the permissions
    return aside


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well, that file takes the place of `path` in one step.

    When the block raises (Ctrl-C included) or the file cannot be finished, it is removed and `path` stays as it was.
    Missing folders are created; a symbolic link is written through. The block should only write: every `OSError` that leaves
    it is reported as a failure to write `path`.

    Raises:
        OutputError: no permission, no space left, `path` is a folder or a device, and whatever else the system refuses.

    """
    path = Path(path)
    aside: Path | None = None
    try:
        target = path.resolve()
        aside = _create_aside(target)
        yield aside
        _sync(aside)
        aside.replace(target)
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def claim_file(path: str | Path) -> None:
    """Learns now whether `path` can be written, rather than after minutes of work; leaves nothing. Raises OutputError."""
    path = Path(path)
    try:
        target = path.resolve()
        made = [folder for folder in target.parents if not folder.exists()]
        _create_aside(target).unlink()
        for folder in made:
            folder.rmdir()
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` by way of `write_aside`."""
    with write_aside(path) as aside:
        aside.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, newlines as they are, by way of `write_aside`."""
    write_bytes(path, text.encode())
