"""From a file of weights to a network: recognised from its names and shapes, or built by the user's own factory."""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from qcompress import factories, restoration, timm_models
from qcompress.architectures import ARCHITECTURES, construct, recognise
from qcompress.architectures.matching import compare, shapes_of
from qcompress.errors import ArchitectureError, CheckpointError, UsageError
from qcompress.weights import prefixes_removed, read_weights

__all__ = ["LIVE", "Checkpoint", "finished", "load", "of_module", "reference_path", "square_input"]

LIVE = "live"
"""Architecture of a module that was given as an object: only its owner can build it again."""

_REFERENCE = "half_unet48_sigma25.safetensors"
_SPANDREL = "spandrel"
_IRCNN_LAYERS = 7


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network: dense, float32, in eval mode, on the CPU.

    `architecture` is a name in `ARCHITECTURES`, ``spandrel:NAME``, ``timm:NAME``, or ``package.module:factory``, which
    `arguments` build again; or "onnx", "pickle" or "live", which take the file or the module itself. `notes` are sentences for
    the user.
    Input is ``(N, channels, H, W)`` with H and W multiples of `stride`. `sha256` is that of the file's bytes.
    """

    path: Path
    sha256: str
    architecture: str
    arguments: dict[str, JsonValue]
    model: nn.Module
    channels: int
    stride: int
    notes: tuple[str, ...] = ()

    def example_shape(self, size: int) -> tuple[int, int, int, int]:
        """Shape of one square input of `size` pixels a side, rounded up to a multiple of the stride.

        Raises:
            UsageError: `size` is below 1.

        """
        return square_input(size, self.channels, self.stride)


def square_input(size: int, channels: int, stride: int) -> tuple[int, int, int, int]:
    """(1, channels, side, side), the side `size` rounded up to a multiple of `stride`. Raises UsageError for a size below 1."""
    if size < 1:
        raise UsageError(f"the input size must be at least 1 pixel, got {size}")
    side = -(-size // stride) * stride
    return (1, channels, side, side)


def reference_path() -> Path:
    """Where the checkpoint that ships with the package lies.

    Raises:
        CheckpointError: this installation lacks it.

    """
    path = Path(str(importlib.resources.files("qcompress.reference") / _REFERENCE))
    if not path.is_file():
        hint = "install the package again, or train it with examples/train_reference.py"
        raise CheckpointError(f"{path}: the reference checkpoint is missing from this installation", hint)
    return path


def load(
    path: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, JsonValue] | None = None,
    trust_pickle: bool = False,
) -> Checkpoint:
    """Load a checkpoint.

    Args:
        path: a state dict as .safetensors or PyTorch file (by content, not by name), bare or inside what training scripts wrap
            around it; "reference" is the checkpoint that ships, unless there is a file of this name.
        arch: None to recognise the architecture; a name in `ARCHITECTURES` to insist on it; "spandrel" to have spandrel
            recognise it; ``timm:NAME`` for a network of timm; ``package.module:factory`` to build the network by the
            user's own code (importable from the current folder too).
        arch_args: arguments for it, over the recognised ones.
        trust_pickle: load files that hold more than tensors, which runs whatever code is in them.

    Raises:
        CheckpointError: the file cannot be used, or is not safe to load.
        ArchitectureError: the network is not recognised, cannot be built, or has other parameters than the file.
        UsageError: `arch_args` cannot be written as JSON (a plan records them).

    """
    given = _plain(arch_args or {})
    path = Path(path)
    if str(path) == "reference" and not path.exists():
        path = reference_path()
    with factories.importable_from_here() if trust_pickle else nullcontext():  # a module that lies here is code from here
        weights = read_weights(path, trust_pickle=trust_pickle)
    content = weights.content
    if isinstance(content, nn.Module) and arch is not None:
        content = content.state_dict()
    architecture, arguments, model = (
        ("pickle", {}, _whole(path, content)) if isinstance(content, nn.Module) else _network(path, content, arch, given)
    )
    return finished(path, weights.sha256, architecture, arguments, model, _notes(architecture, content))


def finished(
    path: Path,
    sha256: str,
    architecture: str,
    arguments: dict[str, JsonValue],
    model: nn.Module,
    notes: tuple[str, ...] = (),
) -> Checkpoint:
    """The checkpoint of a network that has its weights: `model`, made ready, and probed for what input it takes.

    Raises:
        CheckpointError: its output is not finite.

    """
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    channels, stride = factories.probe_input(model)
    factories.check_output(model, channels, stride, str(path))
    return Checkpoint(path, sha256, architecture, arguments, model, channels, stride, notes)


def of_module(module: nn.Module) -> Checkpoint:
    """The checkpoint of a live module: a copy on the CPU, float32, in eval mode; the caller's stays as it is.

    Its `sha256` is that of its parameters and buffers: names, shapes and values.

    Raises:
        ArchitectureError: a TorchScript module, or one that cannot be copied.
        CheckpointError: weights or an output that are not finite.

    """
    path = Path(type(module).__name__)
    try:
        model = copy.deepcopy(module)
    except Exception as error:  # foreign code
        reason = " ".join(str(error).split())[:200]
        raise ArchitectureError(f"{path}: cannot be copied: {reason}", "give a module whose tensors are its own") from error
    model = _whole(path, model.cpu())
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinite values", "the training diverged")
    return finished(path, digest.hexdigest(), LIVE, {}, model)


def _plain(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`arguments` as they come back from a plan: tuples are lists."""
    try:
        text = json.dumps(dict(arguments), allow_nan=False, ensure_ascii=False)
        plain: dict[str, JsonValue] = json.loads(text.encode())  # which refuses half a character
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"arch_args must be plain JSON values: {error}", "make the rest inside the factory") from error
    return plain


def _whole(path: Path, module: nn.Module) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):
        raise ArchitectureError(f"{path}: a TorchScript module, which cannot be traced", "save the plain module's state dict")
    return module.float()


def _network(
    path: Path, state: dict[str, Tensor], arch: str | None, given: dict[str, JsonValue]
) -> tuple[str, dict[str, JsonValue], nn.Module]:
    """Architecture, its arguments, and the network with the weights in it."""
    if arch is None:
        found = _recognised(state)
        if found is None:
            return _recognised_elsewhere(path, state)
        name, arguments, state = found
        return name, arguments | given, _fill(path, construct(name, arguments | given), state, name, assign=True)
    if arch in ARCHITECTURES:
        guesses = (ARCHITECTURES[arch].recognise(shapes_of(candidate)) for candidate in prefixes_removed(state))
        arguments = next((guess for guess in guesses if guess is not None), {}) | given
        return arch, arguments, _fill(path, construct(arch, arguments), state, arch, assign=True)
    if arch.startswith(timm_models.PREFIX):
        arguments = timm_models.completed(arch, shapes_of(state), given)
        held = sum(tensor.numel() for tensor in state.values())
        return arch, arguments, _fill(path, timm_models.build(arch, arguments, held=held), state, arch, assign=False)
    if arch == _SPANDREL or arch.startswith(restoration.PREFIX):
        return _restoration(path, state, arch, given)
    if factories.is_factory(arch):
        return arch, given, _fill(path, factories.make(arch, given), state, arch, assign=False)
    known = ", ".join(ARCHITECTURES)
    expected = f"expected package.module:factory, timm:NAME, spandrel, or one of {known}"
    raise ArchitectureError(f"--arch {arch}: unknown, {expected}")


def _recognised(state: dict[str, Tensor]) -> tuple[str, dict[str, JsonValue], dict[str, Tensor]] | None:
    for candidate in prefixes_removed(state):
        found = recognise(shapes_of(candidate))
        if found is not None:
            return found[0].name, found[1], candidate
    return None


def _recognised_elsewhere(path: Path, state: dict[str, Tensor]) -> tuple[str, dict[str, JsonValue], nn.Module]:
    """What spandrel makes of a state dict that is none of ours; where it is not there, it is named as one way out."""
    missing = restoration.importable()
    for candidate in prefixes_removed(state) if missing is None else ():
        found = restoration.recognise(candidate)
        if found is not None:
            return found
    keys = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(state.items())[:4])
    hint = "name the code that builds the network: --arch package.module:factory, with its arguments in --arch-args as JSON"
    if missing is not None:
        hint += f"; or, for a published restoration network, {restoration.INSTALL} (spandrel: {missing[:120]})"
    known = ", ".join(ARCHITECTURES)
    message = f"{path}: no known architecture has these {len(state)} parameters ({keys} ...); known: {known}"
    raise ArchitectureError(message, hint)


def _restoration(
    path: Path, state: dict[str, Tensor], arch: str, given: dict[str, JsonValue]
) -> tuple[str, dict[str, JsonValue], nn.Module]:
    if given:
        raise ArchitectureError(f"--arch {arch}: takes no arguments, got {', '.join(given)}", "the weights' shapes decide")
    for candidate in prefixes_removed(state):
        found = restoration.recognise(candidate)
        if found is not None and arch in (_SPANDREL, found[0]):
            return found
    raise ArchitectureError(f"{path}: --arch {arch}: spandrel does not recognise these {len(state)} parameters as it")


def _notes(architecture: str, content: nn.Module | Mapping[str, Tensor]) -> tuple[str, ...]:
    """What shapes cannot tell: dilated convolutions have the weights of others."""
    if architecture != "dncnn" or isinstance(content, nn.Module):
        return ()
    layers = sum(tensor.ndim == 4 for tensor in content.values())
    if layers != _IRCNN_LAYERS:
        return ()
    return ("7 convolutions in a chain may be an IRCNN, whose layers are dilated: then give the code that builds it by --arch",)


def _fill(path: Path, model: nn.Module, state: dict[str, Tensor], arch: str, *, assign: bool) -> nn.Module:
    """Load strictly, under the first reading of the names that fits; else say where the closest reading differs."""
    expected = shapes_of(model)
    readings = [(compare(expected, shapes_of(candidate)), candidate) for candidate in prefixes_removed(state)]
    mismatch, closest = min(readings, key=lambda reading: reading[0].count)
    if mismatch:
        hint = "check --arch and --arch-args against the code that trained it"
        raise ArchitectureError(f"{path}: does not fit {arch}: {mismatch}", hint)
    try:
        model.load_state_dict(closest, strict=True, assign=assign)
    except RuntimeError as error:
        raise ArchitectureError(f"{path}: does not fit {arch}: {' '.join(str(error).split())[:300]}") from error
    return model
