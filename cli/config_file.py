"""`--config FILE`: options from a TOML file, each under the name that it has on the command line, which comes first."""

from __future__ import annotations

import difflib
import inspect
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from qcompress.cli.config_places import Places, broken_at, given_twice
from qcompress.cli.config_types import mistake
from qcompress.cli.option_table import Option, options_of
from qcompress.errors import InputError, UsageError

__all__ = ["AUTO", "Config", "NAME", "given_here", "of_the_file", "placed", "read"]

NAME = "qcompress.toml"
AUTO = "auto"
LARGEST_BYTES = 2**20
OWN = ("config",)  # options that a file has no say in
_PLACES = "qcompress.config"  # where a context has the `Places` of its file

T = TypeVar("T")


def read(path: Path, options: Sequence[Option]) -> dict[str, Any]:
    """The values of the file by the parameters' names, as the command line would have them.

    Raises InputError: unreadable, no TOML, a key that is no option (the nearest one is named), a value of the wrong type.
    """
    return _read(path, _text(path), options)


def given_here(context: typer.Context, *names: str) -> set[str]:
    """Those of the parameters that the command line gives, and no file."""
    found = {name: context.get_parameter_source(name) for name in names}
    return {name for name, source in found.items() if source is not None and source.name == "COMMANDLINE"}


def placed(context: typer.Context, make: Callable[..., T], **given: Any) -> T:
    """`make(**given)`. Where it refuses a value that is the file's, the error names file, line and key.

    Which one that is, is tried: the first without which `make` does not refuse the same.

    Raises InputError for a value of the file, UsageError as `make` for others.
    """
    try:
        return make(**given)
    except UsageError as error:
        places = context.meta.get(_PLACES)
        if places is None:
            raise
        names = [name for name in given if _is_of_the_file(context, name)]
        for name, entry, fewer in _less(make, given, names):
            if _refusal(make, fewer) != error.message:
                raise places.error(_key_of(context, name), error.message, error.hint, entry) from None
        raise


def of_the_file(error: typer.TyperException) -> InputError | None:
    """The same for a value that typer refuses before a command sees it; None where the file has no part in it."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or parameter is None or not _is_of_the_file(context, parameter.name):
        return None
    places = context.meta.get(_PLACES)
    key = _key_of(context, parameter.name)
    return None if places is None else places.error(key, getattr(error, "message", str(error)), f"what --{key} takes", None)


def _load(context: typer.Context, value: str | None) -> str | None:
    """Puts what the file says in the place of the defaults, before any other option is looked at."""
    if value is not None:
        path = Path(NAME) if value == AUTO else Path(value)
        text = _text(path)
        found = _read(path, text, _options_of(context), _elsewhere(context))
        context.default_map = {**(context.default_map or {}), **found}
        context.meta[_PLACES] = Places(path, text)
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


def _key_of(context: typer.Context, name: str) -> str:
    return next(option.key for option in _options_of(context) if option.name == name)


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


def _elsewhere(context: typer.Context) -> dict[str, str]:
    """Hints for keys that `init` writes, for `prune`, and that are no options of this command."""
    from qcompress.cli.prune import prune  # these take `Config` from here
    from qcompress.cli.sweep import INSTEAD

    command, own = context.info_name, {option.key for option in _options_of(context)}
    instead = INSTEAD if command == "sweep" else {}
    keys = [option.key for option in options_of(prune) if option.key not in own]
    return {key: instead.get(f"--{key}", f"{command} takes no --{key}") for key in keys}


def _read(path: Path, text: str, options: Sequence[Option], elsewhere: Mapping[str, str] | None = None) -> dict[str, Any]:
    places = Places(path, text)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        if (twice := given_twice(text)) is not None:
            raise InputError(f"{path}, line {twice[0]}: {twice[1]} is given twice", "leave one of them out") from None
        line, said = broken_at(text, str(error)[:200])
        where = f"{path}" if line is None else f"{path}, line {line}"
        raise InputError(f"{where}: not TOML: {said}", "qcompress init writes a file to start from") from None
    known = {option.key: option for option in options if option.key not in OWN}
    for key in values:
        if key not in known:
            raise _unknown(places, key, list(known), elsewhere or {})
    wrong = mistake(values, tuple(known.values()))
    if wrong is not None:
        name = wrong.key if wrong.entry is None else f"{wrong.key} {wrong.entry!a}"
        raise InputError(f"{places.of(wrong.key, wrong.entry)}: {name}: {wrong.expected}", f"what --{wrong.key} takes")
    return {known[key].name: _as_on_the_line(known[key], value) for key, value in values.items()}


def _is_of_the_file(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


def _less(
    make: Callable[..., object], given: Mapping[str, Any], names: Sequence[str]
) -> list[tuple[str, str | None, dict[str, Any]]]:
    """`given` without one value each, or one entry of several: its name, the entry, and the rest."""
    parameters = inspect.signature(make).parameters
    found: list[tuple[str, str | None, dict[str, Any]]] = []
    for name in names:
        value, default = given[name], parameters[name].default
        if isinstance(value, list) and len(value) > 0:
            found += [(name, one, {**given, name: [other for other in value if other != one]}) for one in value]
        else:
            found.append((name, None, {**given, name: None if default is inspect.Parameter.empty else default}))
    return found


def _refusal(make: Callable[..., object], given: Mapping[str, Any]) -> str | None:
    try:
        make(**given)
    except UsageError as error:
        return error.message
    return None


def _unknown(places: Places, key: str, known: Sequence[str], elsewhere: Mapping[str, str]) -> InputError:
    """`elsewhere` has hints for keys that are options of another command."""
    dashed = key.replace("_", "-")
    near = difflib.get_close_matches(dashed, known, 1, 0.5)
    hint = f"the nearest is {near[0]}" if near else "qcompress init writes all there are"
    return InputError(f"{places.of(key)}: unknown key {key[:80]!a}", elsewhere.get(dashed, hint))


def _as_on_the_line(option: Option, value: Any) -> Any:
    """A value of the file as the command line's words would give it."""
    if option.multiple:
        return [f"{name}={_word(entry)}" for name, entry in value.items()] if isinstance(value, Mapping) else list(value)
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return value if isinstance(value, bool) or (option.kind in (int, float)) else _word(value)


def _word(value: object) -> str:
    return str(value)
