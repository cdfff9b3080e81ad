"""What all exporters but ONNX's share: files are written aside, run beside PyTorch, and only then put in their place."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qcompress import seeds
from qcompress.errors import ExportError, InputError
from qcompress.exporters.base import Array, Artifact, Open, Weights
from qcompress.exporters.parity import LEAST_DB, PARITY_GATE, Difference, Parity
from qcompress.files import output_error, write_aside

__all__ = ["Draft", "compare", "content", "on_cpu", "only_float32", "publish", "trial_shapes"]


@dataclass(frozen=True)
class Draft:
    """Files that wait to be checked, the one that is opened first; `shapes` are the inputs to compare on."""

    files: tuple[Path, ...]
    shapes: tuple[tuple[int, ...], ...]
    dynamic: bool
    notes: tuple[str, ...] = ()
    opset: int = 0


def trial_shapes(example: tuple[int, ...], input_shape: tuple[int | None, ...], stride: int) -> tuple[tuple[int, ...], ...]:
    """`example`, and a shape that differs from it along every axis that is free in `input_shape`, as the stride allows."""
    steps = (1, 0, stride, 2 * stride)
    other = tuple(
        size + step if free is None else size
        for size, free, step in zip(example, input_shape, steps[: len(example)], strict=True)
    )
    return (example,) if other == example else (example, other)


def only_float32(weights: Weights, format: str) -> None:
    """Raises ExportError where weights are wanted in another type than this format can have."""
    if weights != "float32":
        raise ExportError(f"{format} cannot be written with {weights} weights", "leave out --weights, or choose another format")


def on_cpu(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode."""
    return copy.deepcopy(model).cpu().eval()


def content(shape: tuple[int, ...]) -> Tensor:
    """An input of `shape` in 0..1 to compare on, always the same."""
    return torch.from_numpy(seeds.stream(0, "export check").random(shape, np.float32))


def compare(
    network: nn.Module, run: Callable[[Array], Array], shapes: Sequence[tuple[int, ...]], weights: Weights = "float32"
) -> Parity:
    """How far `run` is from `network` on inputs of `shapes`. Raises ExportError where outputs differ in shape."""
    difference = Difference()
    for given in map(content, shapes):
        with torch.inference_mode():
            expected = network(given.clone()).numpy()
        got = run(given.numpy())
        if got.shape != expected.shape:
            raise ExportError(f"the written network returns {got.shape} where torch returns {expected.shape}")
        difference.add(got, expected)
    return difference.parity(gate=PARITY_GATE, least_db=LEAST_DB.get(weights))


def publish(
    draft: Draft,
    network: nn.Module,
    target: Path,
    *,
    format: str,
    open: Open | None,
    rename: Callable[[Path], Sequence[Path]] = lambda path: (path,),
    weights: Weights = "float32",
) -> Artifact:
    """Put the files of `draft` at the places that `rename` has for `target`, if they compute what `network` does.

    Raises ExportError where the runtime refuses the file, or computes something else than PyTorch.
    """
    notes, parity = draft.notes, None
    if open is not None:
        parity = _measure(draft, network, open, weights)
        if not parity.passed:
            raise ExportError(f"the written file differs from PyTorch in its own runtime: {parity}")
        notes = (*notes, *_default_notes(draft, network, open, weights))
    places = tuple(rename(target))
    _move(draft.files, places)
    size, digest = _digest(places)
    return Artifact(target, format, size, digest, draft.opset, draft.dynamic, notes, places if len(places) > 1 else (), parity)


def _measure(draft: Draft, network: nn.Module, open: Open, weights: Weights) -> Parity:
    try:
        return compare(network, open(draft.files[0], exact=True), draft.shapes, weights)
    except InputError as error:
        raise ExportError(f"the written file does not run: {error.message}") from error


def _default_notes(draft: Draft, network: nn.Module, open: Open, weights: Weights) -> Iterator[str]:
    """How far the runtime is from PyTorch when nobody asks it to be exact, where that is farther."""
    parity = compare(network, open(draft.files[0]), draft.shapes[:1], weights)
    if not parity.passed or (parity.db is not None and parity.rel > PARITY_GATE and weights == "float32"):
        yield f"by its own default settings the runtime is {parity.db or 0:.0f} dB from PyTorch here (exact: within the gate)"


def _move(files: Sequence[Path], places: Sequence[Path]) -> None:
    """Each file to its place, folders too: all or, where one cannot be written, none."""
    with ExitStack() as stack:
        for source, place in zip(files, places, strict=True):
            if source.is_dir():
                _move_folder(source, place)
            else:
                shutil.copyfile(source, stack.enter_context(write_aside(place)))


def _move_folder(source: Path, place: Path) -> None:
    """A folder to `place`, where an earlier one may be."""
    aside = place.with_name(f".{place.name}.aside")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        shutil.copytree(source, aside)
        if place.is_dir():
            shutil.rmtree(place)
        aside.replace(place)
    except OSError as error:
        raise output_error(place, error) from error


def _digest(places: Sequence[Path]) -> tuple[int, str]:
    """Bytes and SHA-256 of files, and of those in folders in the order of their names."""
    size, digest = 0, hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                data = path.read_bytes()
                size += len(data)
                digest.update(data)
    return size, digest.hexdigest()
