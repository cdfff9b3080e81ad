"""`--config FILE`: options from a TOML file, each under the name that it has on the command line, which comes first."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qcompress.cli.option_table import Option, options_of
from qcompress.errors import InputError

__all__ = ["AUTO", "Config", "NAME", "given_here", "read", "template"]

NAME = "qcompress.toml"
AUTO = "auto"
LARGEST_BYTES = 2**20
OWN = ("config",)  # options that a file has no say in


def read(path: Path, options: Sequence[Option]) -> dict[str, Any]:
    """The values of the file by the parameters' names, as the command line would have them.

    Raises InputError: unreadable, no TOML, a key that is no option (the nearest one is named), a value of the wrong type.
    """
    text = _text(path)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        if (twice := _given_twice(text)) is not None:
            raise InputError(f"{path}, line {twice[0]}: {twice[1]} is given twice", "leave one of them out") from None
        raise InputError(f"{path}: not TOML: {str(error)[:200]}", "qcompress init writes a file to start from") from None
    known = {option.key: option for option in options if option.key not in OWN}
    for key in values:
        if key not in known:
            raise _unknown(path, text, key, list(known))
    from qcompress.cli.config_types import mistake  # pydantic takes its time

    wrong = mistake(values, tuple(known.values()))
    if wrong is not None:
        key, expected = wrong
        raise InputError(f"{_place(path, text, key)}: {key}: {expected}", f"what --{key} of prune takes")
    return {known[key].name: _as_on_the_line(known[key], value) for key, value in values.items()}


def template(options: Sequence[Option]) -> str:
    """A file with every option at its default, commented out, and what it does above it."""
    parts = ["# Options of `qcompress prune`, for --config. What the command line says comes first.\n"]
    for option in options:
        if option.key in OWN:
            continue
        lines = _wrapped(option.help.replace("`", ""))
        if option.choices:
            lines.append(f"One of {', '.join(option.choices)}.")
        parts.append("\n".join([*(f"# {line}" for line in lines), f"# {option.key} = {_example(option)}"]) + "\n")
    return "\n".join(parts)


def given_here(context: typer.Context, *names: str) -> set[str]:
    """Those of the parameters that the command line gives, and no file."""
    found = {name: context.get_parameter_source(name) for name in names}
    return {name for name, source in found.items() if source is not None and source.name == "COMMANDLINE"}


def _load(context: typer.Context, value: str | None) -> str | None:
    """Puts what the file says in the place of the defaults, before any other option is looked at."""
    if value is not None:
        path = Path(NAME) if value == AUTO else Path(value)
        context.default_map = {**(context.default_map or {}), **read(path, _options_of(context))}
    return value


Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_load,
        help=f"Take options from a TOML file (`qcompress init` writes one); auto: {NAME} in the working folder.",
    ),
]


def _options_of(context: typer.Context) -> tuple[Option, ...]:
    command = context.command.callback
    assert command is not None
    return options_of(command)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise InputError(f"{path}: larger than {LARGEST_BYTES // 2**20} MiB, which no config file is", "give another file")
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "qcompress init writes a file to start from") from None


def _unknown(path: Path, text: str, key: str, known: Sequence[str]) -> InputError:
    near = difflib.get_close_matches(key.replace("_", "-"), known, 1, 0.5)
    hint = f"the nearest is {near[0]}" if near else "qcompress init writes all there are"
    return InputError(f"{_place(path, text, key)}: unknown key {key[:80]!a}", hint)


def _place(path: Path, text: str, key: str) -> str:
    """The file and the line of a key of the top level."""
    name = re.escape(key)
    begins = re.compile(rf"""\s*\[?\s*(["']?){name}\1\s*[=.\]]""")
    line = next((number for number, line in enumerate(text.splitlines(), 1) if begins.match(line)), None)
    return f"{path}" if line is None else f"{path}, line {line}"


def _given_twice(text: str) -> tuple[int, str] | None:
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


def _as_on_the_line(option: Option, value: Any) -> Any:
    """A value of the file as the command line's words would give it."""
    if option.multiple:
        return [f"{name}={_word(entry)}" for name, entry in value.items()] if isinstance(value, Mapping) else list(value)
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return value if isinstance(value, bool) or (option.kind in (int, float) and option.key != "max-drop") else _word(value)


def _word(value: object) -> str:
    return str(value)


def _example(option: Option) -> str:
    """The default in TOML; where there is none, what stands for a value."""
    if option.multiple:
        return "{}" if option.pairs else "[]"
    if option.default is None:
        return {int: "0", float: "0.0", bool: "false"}.get(option.kind, json.dumps(option.metavar or "TEXT")) + "  # no default"
    return json.dumps(option.default, ensure_ascii=False)


def _wrapped(text: str, width: int = 96) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return lines
