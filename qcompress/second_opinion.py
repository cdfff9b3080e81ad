"""What Torch-Pruning's dependency graph (Fang et al., CVPR 2023) says of the same network: an oracle of other code than ours.

Units are found by labels (`tracing_flow`), because that graph takes operations that it does not know for element-wise and
is wrong, or fails, on a good part of what people write (tests/test_upstream.py has the cases). Where it does follow a network,
the two must agree.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch_pruning
from torch import Tensor, nn

from qcompress.groups import Group, Groups, Side

__all__ = ["Opinion", "second_opinion"]

_SECONDS = 5.0
_Channels = dict[tuple[str, Side], frozenset[int]]


@dataclass(frozen=True)
class Opinion:
    """On one group: whether the first unit of it is the same channels there; `note` says what is not."""

    group: str
    verdict: Literal["agrees", "differs", "fails"]
    note: str = ""


def second_opinion(model: nn.Module, example: Tensor | Sequence[Tensor], groups: Groups) -> tuple[Opinion, ...]:
    """One opinion per group of `groups`, which were traced from `model` on `example`. The model is left as it was."""
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    probe = copy.deepcopy(model).eval().requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(probe, example_inputs=inputs, verbose=False)
    except Exception as error:  # whatever it raises is its opinion
        return tuple(Opinion(group.name, "fails", _told(error)) for group in groups.groups)
    names = {module: name for name, module in probe.named_modules()}
    return tuple(_opinion(graph, names, probe, groups, group) for group in groups.groups)


def _opinion(graph: Any, names: Mapping[nn.Module, str], probe: nn.Module, groups: Groups, group: Group) -> Opinion:
    layers = {layer.name: layer for layer in groups.layers}
    real = ("conv", "conv_transpose", "linear")
    producer = next(member for member in group.side("out") if layers[member.layer].kind in real)
    try:
        with _deadline(_SECONDS):
            found = graph.get_pruning_group(
                probe.get_submodule(producer.layer), _pruning_function(graph, probe, producer.layer), list(producer.channels[0])
            )
        theirs = _theirs(graph, names, found)
    except TimeoutError:
        return Opinion(group.name, "fails", f"no answer within {_SECONDS:g} seconds")
    except Exception as error:
        return Opinion(group.name, "fails", _told(error))
    ours: _Channels = {
        (member.layer, member.side): frozenset(member.channels[0])
        for member in group.members
        if layers[member.layer].kind not in ("parameter", "heads", "product")
    }
    theirs = {key: value for key, value in theirs.items() if key[0] in layers}
    if ours == theirs:
        return Opinion(group.name, "agrees")
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    name, side = keys[0]
    shown = [len(channels.get(keys[0], ())) for channels in (theirs, ours)]
    return Opinion(group.name, "differs", f"{name} ({side}): {shown[0]} channels there, {shown[1]} here")


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside the context once `seconds` are over: behind many branches its walk takes exponential time."""
    end = time.monotonic() + seconds
    before = sys.getprofile()

    def watch(frame: object, event: str, argument: object) -> None:
        if time.monotonic() > end:
            sys.setprofile(before)
            raise TimeoutError

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


def _pruning_function(graph: Any, probe: nn.Module, layer: str) -> Any:
    return graph.get_pruner_of_module(probe.get_submodule(layer)).prune_out_channels


def _theirs(graph: Any, names: Mapping[nn.Module, str], found: Any) -> _Channels:
    channels: dict[tuple[str, Side], set[int]] = {}
    for dependency, indices in found:
        name = names.get(dependency.target.module)
        if name is None:
            continue
        handler = dependency.handler
        into = graph.is_in_channel_pruning_fn(handler) and not graph.is_out_channel_pruning_fn(handler)
        channels.setdefault((name, "in" if into else "out"), set()).update(int(index) for index in indices)
    return {key: frozenset(value) for key, value in channels.items()}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
