"""Where in a config file something stands, for errors: tomllib gives values without their lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from qcompress.errors import InputError

__all__ = ["Places", "broken_at", "given_twice"]

_AT = re.compile(r" \(at line (\d+), column \d+\)")
_AT_THE_END = " (at end of document)"
_BEGINS = re.compile(r"""\s*(?:\[|["']?[A-Za-z0-9_-]+["']?\s*=)""")  # a table, or a key and its value


@dataclass(frozen=True)
class Places:
    """A config file that was read."""

    path: Path
    text: str

    def of(self, key: str, entry: str | None = None) -> str:
        """The file and the line of a key of the top level, or of an entry of its table or list."""
        line = self._line(key)
        if line is not None and entry is not None:
            line = self._entry(entry, line)
        return f"{self.path}" if line is None else f"{self.path}, line {line}"

    def error(self, key: str, message: str, hint: str | None, entry: str | None) -> InputError:
        """What was said of an option, as what is said of the file's value; an entry is NAME=VALUE, as on the command line."""
        bare = message.removeprefix("--")
        named = re.match(rf"{re.escape(key)}(?![\w-])", bare)
        return InputError(f"{self.of(key, entry)}: {bare if named else f'{key}: {message}'}", hint)

    def _line(self, key: str) -> int | None:
        begins = re.compile(rf"""\s*\[?\s*(["']?){re.escape(key)}\1\s*[=.\]]""")
        return next((number for number, line in enumerate(self.text.splitlines(), 1) if begins.match(line)), None)

    def _entry(self, entry: str, first: int) -> int:
        """The line of an entry, from that of its key on; that one where the file writes the entry in another way."""
        lines = [
            line for line in enumerate(self.text.splitlines(), 1) if line[0] >= first and not line[1].lstrip().startswith("#")
        ]
        ends = r"(?![\w.*?-])"
        for text, end in ((entry, ends), (entry.rpartition("=")[0], ends), (entry, r"(?=\.)")):  # the last: a table in a table
            stands = re.compile(rf"(?<![\w.*?-]){re.escape(text)}{end}")
            for number, line in lines if text else ():
                if stands.search(line):
                    return number
        return first


def broken_at(text: str, said: str) -> tuple[int | None, str]:
    """Line and reason of what tomllib says of a text that is no TOML; a value without an end is where it begins."""
    found = _AT.search(said)
    if found:
        return int(found.group(1)), _AT.sub("", said)
    if _AT_THE_END in said:
        begun = [number for number, line in enumerate(text.splitlines(), 1) if _BEGINS.match(line)]
        return (begun[-1] if begun else 1), said.replace(_AT_THE_END, ", up to the end of the file")
    return None, said


def given_twice(text: str) -> tuple[int, str] | None:
    """Line and key of the first key above all tables that is there before."""
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""", line)
        if found and found.group(1) in seen:
            return number, found.group(1)
        if found:
            seen.add(found.group(1))
        elif line.lstrip().startswith("["):
            return None
    return None
