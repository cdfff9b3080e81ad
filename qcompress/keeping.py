"""What all entries of the cache have in common: how large a record may be, and that one that cannot be written ends no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from qcompress.errors import OutputError

__all__ = ["LARGEST_RECORD", "attempted", "bounded"]

LARGEST_RECORD = 16 * 2**20
"""Characters of a record that are read."""


@contextmanager
def attempted(say: Callable[[str], None]) -> Iterator[None]:
    """The block writes an entry; where that fails, it is said in one line, and the run that found it goes on."""
    try:
        yield
    except (OutputError, ValidationError) as error:
        say(f"cache: not kept: {' '.join(str(error).split())[:200]}")


def bounded(record: str) -> str:
    """The record as it is. Raises OutputError where it is larger than what is read."""
    if len(record) > LARGEST_RECORD:
        raise OutputError(f"its record has {len(record):,} characters, {LARGEST_RECORD:,} are read")
    return record
