"""The coupled groups of a network: which channels must go together, what they cost, and which must stay, with the reason.

Torch-Pruning's dependency graph gives the edges; the units are the classes of channels under them (`tracing_coupling`). It
takes every operation it does not know for element-wise, hence two guards: a whitelist of operations (`tracing_ops`) and a
trial removal of every group (`tracing_trial`). What passes neither is kept whole: never a silently wrong network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from qcompress.errors import ArchitectureError, UsageError
from qcompress.groups import Group, Groups, KeptWhole, Layer, Member
from qcompress.tracing_coupling import Component, Coupling, couple
from qcompress.tracing_labels import Rank, Reason
from qcompress.tracing_layers import LayerCosts, count_costs
from qcompress.tracing_trial import failures

__all__ = ["trace"]

_PRODUCERS = ("conv", "conv_transpose", "linear")
_SILENT = ("batchnorm", "instancenorm", "groupnorm", "prelu", "parameter", "heads", "product")  # need no sentence of their own
_SMALL = (32, 64)  # edge lengths, in pixels, at which coupling and trials are tried before the example's own size


def trace(model: nn.Module, example: Tensor | Sequence[Tensor], *, ignore: Sequence[str] = (), floor: int = 1) -> Groups:
    """The groups of `model` on `example`, (batch, channels, ...), of which the first image counts; `model` is not changed.

    A network of several inputs takes a sequence of them. Layers whose name matches a pattern of `ignore` (fnmatch) keep all
    their outputs; every group keeps at least `floor` units. The outputs of the network, channels tied to its input, and
    whatever could not be followed safely are kept whole too: `Groups.kept_whole` says why. Costs are those at the example's
    size. Raises ArchitectureError for a network that fails on the example, cannot be followed at all, or has nothing to prune;
    UsageError for a pattern that matches no layer.
    """
    if floor < 1:
        raise UsageError(f"the floor is {floor}, expected at least 1: an empty layer is no layer")
    with torch.inference_mode(False):
        dense, inputs = _copy(model, (example,) if isinstance(example, Tensor) else tuple(example))
        costs = count_costs(dense, inputs)
        ignored = _ignored(costs.layers, ignore)
        small = _small(dense, inputs)
        coupling = _couple(dense, small, costs)
        components = [_judged(component, coupling.layers, ignored) for component in coupling.components]
        groups = Groups(_groups(components, coupling.layers), coupling.layers, (), tuple(inputs[0].shape))
        refused = failures(dense, groups, small)
    sound = tuple(group for group in groups.groups if group.name not in refused)
    reasons = _reasons(components, tuple(group for group in groups.groups if group.name in refused), refused)
    kept_whole = _kept_whole(dense, coupling, costs, sound, reasons)
    if not sound:
        first = f"; {kept_whole[0].layer} is kept whole: {kept_whole[0].reason}" if kept_whole else ""
        raise ArchitectureError(f"the network ({type(model).__name__}) has no channels that can be pruned{first}")
    return replace(groups, groups=sound, kept_whole=kept_whole, floor=floor)


def _copy(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A copy of the model to work on, in evaluation mode, and the first image of each input, all of float32 or float64."""
    for x in example:
        if x.dim() < 2 or not len(x):
            raise UsageError(f"the example has shape {tuple(x.shape)}, expected (batch, channels, ...)")
    try:
        dense = copy.deepcopy(model).eval()
    except Exception as error:
        raise ArchitectureError(f"the network cannot be copied: {type(error).__name__}: {error}") from error
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in dense.parameters()):
        dense = dense.float()
    dtype = next((p.dtype for p in dense.parameters() if p.is_floating_point()), torch.float32)
    return dense, tuple(x.detach()[:1].clone().to(dtype if x.is_floating_point() else x.dtype) for x in example)


def _ignored(layers: Sequence[Layer], patterns: Sequence[str]) -> dict[str, Reason]:
    """The layers that a pattern matches, with that reason."""
    found: dict[str, Reason] = {}
    for pattern in patterns:
        matched = [layer.name for layer in layers if fnmatchcase(layer.name, pattern)]
        if not matched:
            some = ", ".join(layer.name for layer in layers[:3])
            raise UsageError(f"--ignore {pattern!r} matches no layer", f"layers are called {some}, ...")
        for name in matched:
            found.setdefault(name, Reason(Rank.IGNORED, f"it matches --ignore {pattern!r}"))
    return found


def _small(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A corner of the image that the network accepts: neither coupling nor trials depend on its size."""
    for edge in _SMALL:
        if len(inputs) == 1 and inputs[0].dim() == 4 and edge < min(inputs[0].shape[2:]):
            corner = inputs[0][:, :, :edge, :edge].contiguous()
            try:
                with torch.no_grad():
                    model(corner)
            except Exception:  # too small for this network: the next size, at last the whole image
                continue
            return (corner,)
    return inputs


def _couple(dense: nn.Module, inputs: tuple[Tensor, ...], costs: LayerCosts) -> Coupling:
    try:
        return couple(dense, inputs, costs.layers, costs.products)
    except Exception as error:  # whatever a forward pass does that cannot be watched
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ArchitectureError(f"the network ({type(dense).__name__}) cannot be traced: {reason}") from error


def _producers(component: Component, kinds: Mapping[str, str]) -> list[str]:
    return [name for name, side in component.channels if side == "out" and kinds[name] in _PRODUCERS]


def _judged(component: Component, layers: Sequence[Layer], ignored: Mapping[str, Reason]) -> Component:
    """`component` with the reasons that lie in its layers added: patterns, and channels that nobody makes or takes."""
    reasons = {ignored[name] for name, side in component.channels if side == "out" and name in ignored}
    if not any(side == "in" for _, side in component.channels):
        reasons.add(Reason(Rank.STRUCTURE, "no layer was found that takes its channels"))
    if not _producers(component, {layer.name: layer.kind for layer in layers}):
        reasons.add(Reason(Rank.STRUCTURE, "no layer was found that makes its channels"))
    return replace(component, reasons=tuple(sorted({*component.reasons, *reasons})))


def _groups(components: Sequence[Component], layers: Sequence[Layer]) -> tuple[Group, ...]:
    """One group per family of free components that touch the same layer sides alike; families of one are left out."""
    families: dict[tuple[object, ...], list[Component]] = {}
    for component in components:
        if not component.reasons:
            signature = tuple((key, len(channels)) for key, channels in component.channels.items())
            families.setdefault(signature, []).append(component)
    kinds = {layer.name: layer.kind for layer in layers}
    order = {layer.name: number for number, layer in enumerate(layers)}
    found: list[tuple[tuple[int, tuple[int, ...]], str, list[Component]]] = []
    for family in families.values():
        first = _producers(family[0], kinds)[0]
        if len(family) > 1:
            found.append(((order[first], family[0].channels[first, "out"]), first, family))
    names: dict[str, int] = {}
    groups = []
    for _, producer, family in sorted(found, key=lambda entry: entry[0]):
        names[producer] = names.get(producer, 0) + 1
        name = producer if names[producer] == 1 else f"{producer}#{names[producer]}"  # a producer may feed several groups
        members = (Member(*key, tuple(component.channels[key] for component in family)) for key in family[0].channels)
        groups.append(Group(name, tuple(members)))
    return tuple(groups)


def _reasons(components: Sequence[Component], refused: Sequence[Group], failed: Mapping[str, str]) -> dict[str, list[Reason]]:
    """Per layer, why some of its outputs are kept."""
    found: dict[str, list[Reason]] = {}
    tried = {(m.layer, channels) for group in refused for m in group.side("out") for channels in m.channels}
    for component in components:
        for (name, side), channels in component.channels.items():
            if side == "out" and (name, channels) not in tried:
                found.setdefault(name, []).extend(sorted((*component.reasons, *component.notes))[:1])
    for group in refused:
        for member in group.side("out"):
            found.setdefault(member.layer, []).append(Reason(Rank.TRIAL, failed[group.name]))
    return found


def _kept_whole(
    dense: nn.Module,
    coupling: Coupling,
    costs: LayerCosts,
    groups: Sequence[Group],
    reasons: Mapping[str, list[Reason]],
) -> tuple[KeptWhole, ...]:
    """A sentence for every layer that makes channels, of which some belong to no group."""
    pruned: dict[str, int] = {}
    for group in groups:
        for member in group.side("out"):
            pruned[member.layer] = pruned.get(member.layer, 0) + sum(map(len, member.channels))
    found = []
    for layer in coupling.layers:
        if layer.kind in _SILENT or (layer.outputs and pruned.get(layer.name, 0) == layer.outputs):
            continue
        text = _own_reason(dense, layer, costs, coupling.seen)
        if text is None:
            text = min(reasons.get(layer.name) or [Reason(Rank.STRUCTURE, "it has a single channel of its kind")]).text
        if layer.name in pruned:
            text = f"{layer.outputs - pruned[layer.name]} of its {layer.outputs} outputs only: {text}"
        found.append(KeptWhole(layer.name or type(dense).__name__, text))
    return tuple(found)


def _own_reason(dense: nn.Module, layer: Layer, costs: LayerCosts, seen: frozenset[str]) -> str | None:
    """Why `layer` is kept for its own sake, whatever it is coupled to; None if it need not be."""
    if layer.name in costs.tied:
        return "it shares a parameter with another layer"
    if layer.kind == "other":
        module = dense.get_submodule(layer.name)
        if any(True for _ in module.children()) and not type(module).__module__.startswith("torch.nn"):
            return f"of its own parameters ({', '.join(module._parameters)}) some belong to no layer that can be cut"
        return f"{type(module).__name__} is no kind of layer that can be cut"
    if layer.name not in costs.executed:
        around = (layer.name[:at] for at, letter in enumerate(layer.name) if letter == ".")
        user = next((name for name in around if name in costs.executed), None)
        return f"it is a part of {user}, which is not cut" if user else "the forward pass does not reach it"
    return None if layer.name in seen else "it is called in a way that cannot be followed"
