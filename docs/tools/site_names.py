"""The page of names for programs, made from the modules themselves: signatures, fields, docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import FunctionType
from typing import Any

from site_docstrings import as_markdown

__all__ = ["SECTIONS", "names_page"]

_INTRODUCTION = """\
# Python interface

`import qcompress` gives the names of the first section; all others are imported from where they are. What is not on this page
may change without notice.
"""
_WIDTH = 100  # characters of a signature on one line

SECTIONS: Sequence[tuple[str, Sequence[tuple[str, Sequence[str]]]]] = (
    ("qcompress", (("qcompress", ("prune", "compress", "apply", "load", "save", "trace", "inspect", "Settings", "Result")),)),
    (
        "Settings in detail",
        (
            (
                "qcompress.settings",
                (
                    "CheckpointOptions",
                    "DataOptions",
                    "SearchOptions",
                    "RefineOptions",
                    "ExportOptions",
                    "VerifyOptions",
                    "Limits",
                ),
            ),
        ),
    ),
    (
        "What can be pruned, what is chosen",
        (
            ("qcompress.groups", ("Groups", "Group", "Member", "Layer", "KeptWhole", "Cut")),
            ("qcompress.selection", ("Unit", "UnitSpace", "Selection")),
            ("qcompress.inspection", ("Inspection", "GroupLine")),
        ),
    ),
    (
        "Contracts of solvers",
        (
            ("qcompress.solvers.protocol", ("Solver", "CapacitySolver", "ProfileSolver", "Remote")),
            ("qcompress.solvers", ("from_dimod",)),
        ),
    ),
    ("Contracts of exporters", (("qcompress.exporters.base", ("Exporter", "Artifact")),)),
    ("Contracts of architectures", (("qcompress.architectures", ("Architecture",)),)),
    (
        "Contracts of objectives",
        (
            ("qcompress.qubo", ("Objective", "Hybrid", "Reconstruction")),
            ("qcompress.scores", ("Scores",)),
            ("qcompress.problem", ("Problem",)),
        ),
    ),
    ("Contracts of metrics", (("qcompress.metrics", ("Metric",)),)),
    (
        "Contracts of the refinement",
        (("qcompress.refine.contract", ("Proposing", "Proposer", "Evaluate", "Measured", "RefineResult")),),
    ),
    ("Watching a run", (("qcompress.progress", ("Observer", "Advance")),)),
    ("Errors", (("qcompress.errors", ("QCompressError", "*")),)),
)


def names_page() -> str:
    """Markdown: a section for each row of `SECTIONS`, a heading for each name; "*" stands for the module's other names."""
    parts = [_INTRODUCTION]
    for title, homes in SECTIONS:
        parts.append(f"## {title}\n")
        for home, names in homes:
            module = import_module(home)
            parts += [_entry(home, name, getattr(module, name)) for name in _all_of(module, names)]
    return "\n".join(parts)


def _all_of(module: Any, names: Sequence[str]) -> list[str]:
    named = [name for name in names if name != "*"]
    return named + [name for name in module.__all__ if "*" in names and name not in named]


def _entry(home: str, name: str, value: Any) -> str:
    """One name: its heading, where it is from, its signature, what it says of itself, what can be done with it."""
    lines = [f"### {name}\n", _code(f"from {home} import {name}", *_signatures(name, value))]
    lines.append(as_markdown(_own_doc(value)) + "\n")
    if inspect.isclass(value):
        lines += [_member(name, *member) for member in _members(value)]
    return "\n".join([*lines, ""])


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```", ""])


def _own_doc(value: Any) -> str | None:
    """The docstring; not that which a dataclass or an exception makes up."""
    own = value.__doc__
    return None if inspect.isclass(value) and own and own.startswith(f"{value.__name__}(") else own


def _signatures(name: str, value: Any) -> list[str]:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base not in (object, tuple))
        if dataclasses.is_dataclass(value) or bases == "":
            return ["", *_fields(name, value)]
        return ["", f"class {name}({bases})"]
    overloads = typing.get_overloads(value) or [value]
    return [line for one in overloads for line in ("", _written(name, inspect.signature(one)))]


def _fields(name: str, value: Any) -> list[str]:
    """A dataclass or named tuple as it is made: one field a line."""
    defaults = {field.name: _default(field) for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else {}
    own = [(key, kind) for key, kind in value.__annotations__.items() if not str(kind).startswith("ClassVar")]
    return [f"class {name}:", *(f"    {key}: {kind}{defaults.get(key, '')}" for key, kind in own)]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {_shown(field.default)}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory.__name__}()" if inspect.isclass(field.default_factory) else " = ..."
    return ""


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself has a word to say about."""
    for name, member in vars(value).items():
        inner = _inner(member)
        if (not name.startswith("_") or name == "__call__") and inner is not None and inner.__doc__:
            yield name, member


def _inner(member: Any) -> FunctionType | None:
    for attribute in ("fget", "func", "__func__"):
        member = getattr(member, attribute, member)
    return member if isinstance(member, FunctionType) else None


def _member(owner: str, name: str, member: Any) -> str:
    inner = _inner(member)
    assert inner is not None
    if inner is member or hasattr(member, "__func__"):
        title = _written(name, _without_self(inspect.signature(inner)))
    else:
        title = f"{name}: {inspect.signature(inner).return_annotation}"
    return "\n".join([f"#### {owner}.{name}\n", _code(title), as_markdown(inner.__doc__), ""])


def _without_self(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _written(name: str, signature: inspect.Signature) -> str:
    """The signature, with one parameter a line where it is long. Annotations stand as they are written in the code."""
    flat = f"{name}({', '.join(map(_bare, _parameters(signature)))}){_returned(signature)}"
    if len(flat) <= _WIDTH:
        return flat
    inside = "".join(f"    {_bare(parameter)},\n" for parameter in _parameters(signature))
    return f"{name}(\n{inside}){_returned(signature)}"


def _parameters(signature: inspect.Signature) -> Iterator[inspect.Parameter | str]:
    """The parameters, and "/" and "*" between them where they belong."""
    kinds = inspect.Parameter
    last = None
    for parameter in signature.parameters.values():
        if last is kinds.POSITIONAL_ONLY and parameter.kind is not last:
            yield "/"
        if parameter.kind is kinds.KEYWORD_ONLY and last not in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL):
            yield "*"
        last = parameter.kind
        yield parameter
    if last is kinds.POSITIONAL_ONLY:
        yield "/"


def _bare(parameter: inspect.Parameter | str) -> str:
    if isinstance(parameter, str):
        return parameter
    stars: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    star = stars.get(parameter.kind, "")
    kind = "" if parameter.annotation is inspect.Parameter.empty else f": {parameter.annotation}"
    default = "" if parameter.default is inspect.Parameter.empty else f" = {_shown(parameter.default)}"
    return f"{star}{parameter.name}{kind}{default}"


def _shown(default: object) -> str:
    """A default as it is written: text in double quotes, an object of defaults alone without them."""
    if isinstance(default, str):
        return f'"{default}"'
    if dataclasses.is_dataclass(default) and default == _made_of_defaults(type(default)):
        return f"{type(default).__name__}()"
    text = repr(default)
    return "..." if " object at " in text else text


def _made_of_defaults(kind: type) -> object:
    try:
        return kind()
    except TypeError:
        return None


def _returned(signature: inspect.Signature) -> str:
    return "" if signature.return_annotation is inspect.Signature.empty else f" -> {signature.return_annotation}"
