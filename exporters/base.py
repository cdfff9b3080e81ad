"""What an exporter is and what it hands back; what a runtime is and what it opens."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.errors import BackendError, InputError
from qcompress.exporters.parity import Parity

__all__ = [
    "Array",
    "Artifact",
    "Exporter",
    "Format",
    "Open",
    "Opened",
    "Prepared",
    "Runner",
    "Runtime",
    "State",
    "Weights",
    "first_line",
    "load_package",
    "shape_text",
]

Array = NDArray[np.float32]
State = Literal["verified", "unverified"]
Weights = Literal["float32", "float16"]


@dataclass(frozen=True)
class Artifact:
    """A file that was written, checked and reloaded.

    `dynamic` is True where batch, height and width may all vary; `notes` are sentences for the user (why a size is fixed, say).
    `opset` is 0 where the format has none. A format of several files has them all in `files`, the one that is opened, `path`,
    among them; then `size_bytes` and `sha256` are of all of them, in that order. `parity` is how far what the format's own
    runtime computes is from PyTorch, None where that runtime does not run here.
    """

    path: Path
    format: str
    size_bytes: int
    sha256: str
    opset: int
    dynamic: bool
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    parity: Parity | None = None

    @property
    def state(self) -> State:
        """Whether its own runtime computes from it what PyTorch computes, as far as that could be found out here."""
        return "verified" if self.parity is not None and self.parity.passed else "unverified"


class Exporter(Protocol):
    """Writes a network to one file, or to a few that belong together.

    `example` is a float32 (N, C, H, W) input that the network accepts; `metadata` is stored in the file where the format can.
    `weights` is what weights are stored as; the network computes in float32 anyway. The network is not changed, nothing is
    written unless everything was checked, and the file appears in one step.

    Raises ExportError where the network cannot be written faithfully as asked, BackendError where a package is missing,
    OutputError where `path` cannot be written.
    """

    def __call__(
        self,
        model: nn.Module,
        example: Tensor,
        path: Path,
        *,
        opset: int,
        dynamic: bool,
        metadata: Mapping[str, str],
        weights: Weights = "float32",
    ) -> Artifact: ...


@dataclass(frozen=True)
class Format:
    """A row of EXPORTERS: an exporter, how its file ends, which of RUNTIMES runs it (None: none here), which extra it needs.

    `beside` are the endings of the files that lie beside the one that is opened, in place of `suffix`.
    """

    write: Exporter
    suffix: str
    runtime: str | None
    extra: str | None = None
    beside: tuple[str, ...] = ()

    def __call__(
        self,
        model: nn.Module,
        example: Tensor,
        path: Path,
        *,
        opset: int,
        dynamic: bool,
        metadata: Mapping[str, str],
        weights: Weights = "float32",
    ) -> Artifact:
        """As `write`."""
        return self.write(model, example, path, opset=opset, dynamic=dynamic, metadata=metadata, weights=weights)


class Runner(Protocol):
    """A file ready to run: one float32 input, one output. `input_shape` holds None where a size may vary.

    `metadata` are those that the exporter was given, where the format keeps them.
    """

    @property
    def name(self) -> str: ...

    @property
    def input_shape(self) -> tuple[int | None, ...]: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def __call__(self, images: Array) -> Array:
        """The output for one batch. Raises InputError where the network refuses the shape."""
        ...

    def bind(self, images: Array) -> Callable[[], object]:
        """One run on `images` with the input in place already: what is timed. Raises InputError as a call does."""
        ...


class Open(Protocol):
    """Opens a file on the CPU. `exact`: in float32 with its rounding; otherwise as the runtime does unless it is told.

    Raises InputError where the file is missing, damaged or not an image network, BackendError where a package is missing.
    """

    def __call__(self, path: Path, threads: int = 1, *, exact: bool = False) -> Runner: ...


@dataclass(frozen=True)
class Runtime:
    """A row of RUNTIMES: what opens a file, the endings of files that it opens, which extra it needs.

    `runs_code`: opening a file may run code from it, so that it is for files that the user trusts.
    """

    open: Open
    suffixes: tuple[str, ...]
    extra: str | None = None
    runs_code: bool = False

    def __call__(self, path: Path, threads: int = 1, *, exact: bool = False) -> Runner:
        """As `open`."""
        return self.open(path, threads, exact=exact)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A runtime set up for one input: `run` computes, `output` fetches a copy of what the last run computed."""

    run: Callable[[], object]
    output: Callable[[], Array]


@dataclass(frozen=True, eq=False)
class Opened:
    """A `Runner` over what a runtime is told once for each input."""

    name: str
    input_shape: tuple[int | None, ...]
    metadata: Mapping[str, str]
    prepare: Callable[[Array], Prepared]

    def __call__(self, images: Array) -> Array:
        """As `Runner`."""
        return self._ready(images)[1]

    def bind(self, images: Array) -> Callable[[], object]:
        """As `Runner`."""
        return self._ready(images)[0].run

    def _ready(self, images: Array) -> tuple[Prepared, Array]:
        fits = len(images.shape) == len(self.input_shape) and all(
            wanted in (None, size) for wanted, size in zip(self.input_shape, images.shape, strict=True)
        )
        wants = f"its input is {shape_text(self.input_shape)}"
        if not fits:
            raise InputError(f"{self.name}: the network cannot run on an input of shape {images.shape}", wants)
        try:
            prepared = self.prepare(np.ascontiguousarray(images, np.float32))
            prepared.run()
            return prepared, prepared.output()
        except Exception as error:  # the runtimes' exceptions have no common base but this one
            raise InputError(
                f"{self.name}: the network cannot run on an input of shape {images.shape}: {first_line(error)}", wants
            ) from error


def load_package(name: str, extra: str) -> Any:
    """A package that is an extra. Raises BackendError, with the command that installs it, where it is missing or broken."""
    try:
        return importlib.import_module(name)
    except (
        Exception
    ) as error:  # a library that does not fit the system raises OSError, one that does not fit torch RuntimeError
        what = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded: {first_line(error)}"
        raise BackendError(f"the package {name} {what}", f"pip install 'qcompress[{extra}]'") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, of bounded length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape for people: `(any, 3, any, any)`."""
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
