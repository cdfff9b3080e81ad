"""Channels removed for good: the one place where a network's tensors change shape.

A cut is keyed by layer name and applied once per layer side, so no index ever shifts under another. Nothing here knows how
channels are coupled: `Groups.cuts` says what to remove, `check` says whether the result is the network that the masks promised.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from qcompress.errors import PlanError, SurgeryError
from qcompress.frozen import answer, frozen
from qcompress.groups import HEADS, Cut, Groups, Side
from qcompress.masks import consumer_masks
from qcompress.selection import Selection
from qcompress.tracing_layers import kind_of

__all__ = ["SlicedShell", "Weights", "check", "outputs_of", "relative_difference", "slim"]


@dataclass(frozen=True)
class _Axis:
    """An axis of a tensor that shrinks with `side`. Its index are the kept channels as they are ("whole"), those of the first
    of `divisions` blocks of `block` channels, as all keep equal places ("places"), or the kept blocks, each `width` wide
    ("blocks").
    """

    tensor: str
    axis: int
    side: Side
    form: Literal["whole", "places", "blocks"] = "whole"
    block: int = 1
    width: int = 1

    def index(self, kept: tuple[int, ...]) -> list[int]:
        """Where to look along the axis."""
        if self.form == "whole":
            return list(kept)
        if self.form == "places":
            return [c for c in kept if c < self.block]
        return [c // self.block * self.width + at for c in kept[:: self.block] for at in range(self.width)]


@dataclass(frozen=True)
class _Count:
    """An attribute that counts channels: `times` for every `per` that `side` keeps."""

    attribute: str
    side: Side
    times: int = 1
    per: int = 1


@dataclass(frozen=True)
class _Anatomy:
    """Where the channels of a layer are, and how many divisions have to keep equal places or be kept as a whole.

    `even` holds (side, size of a division): all divisions keep equal places. `blocks`: divisions go as a whole.
    """

    axes: tuple[_Axis, ...]
    counts: tuple[_Count, ...]
    even: tuple[tuple[Side, int], ...] = ()
    blocks: int = 1


def _plain(transposed: bool) -> _Anatomy:
    into, out = (0, 1) if transposed else (1, 0)
    axes = (_Axis("weight", out, "out"), _Axis("weight", into, "in"), _Axis("bias", 0, "out"))
    return _Anatomy(axes, (_Count("in_channels", "in"), _Count("out_channels", "out")))


def _divided(module: nn.modules.conv._ConvNd) -> _Anatomy:
    """A grouped convolution: see `tracing_layers.kind_of` for which of the two it is."""
    into, out = module.in_channels // module.groups, module.out_channels // module.groups
    if kind_of(module) == "depthwise":
        counts = (_Count("out_channels", "out"), _Count("in_channels", "out", into, out), _Count("groups", "out", 1, out))
        first = _Axis("weight", 0, "out", "blocks", out, into) if module.transposed else _Axis("weight", 0, "out")
        return _Anatomy((first, _Axis("bias", 0, "out")), counts, blocks=out)
    sides: tuple[tuple[Side, int], ...] = (("in", into), ("out", out))
    across = _Axis("weight", 1, "out", "places", out) if module.transposed else _Axis("weight", 1, "in", "places", into)
    axes = (_Axis("weight", 0, "in" if module.transposed else "out"), across, _Axis("bias", 0, "out"))
    return _Anatomy(axes, (_Count("in_channels", "in"), _Count("out_channels", "out")), even=sides)


def _per_channel(names: tuple[str, ...], *counts: _Count, blocks: int = 1) -> _Anatomy:
    return _Anatomy(tuple(_Axis(name, 0, "out") for name in names), counts, blocks=blocks)


_NORM = ("weight", "bias", "running_mean", "running_var")


def _anatomy(module: nn.Module) -> _Anatomy | None:
    """The anatomy of `module`, None for a kind that is not sliced."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return _plain(module.transposed) if module.groups == 1 else _divided(module)
    if isinstance(module, nn.Linear):
        return _Anatomy(_plain(False).axes, (_Count("in_features", "in"), _Count("out_features", "out")))
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return _per_channel(_NORM, _Count("num_features", "out"))
    if isinstance(module, nn.GroupNorm):
        block = module.num_channels // module.num_groups
        return _per_channel(_NORM[:2], _Count("num_channels", "out"), _Count("num_groups", "out", 1, block), blocks=block)
    return _per_channel(("weight",), _Count("num_parameters", "out")) if isinstance(module, nn.PReLU) else None


@dataclass(frozen=True)
class _DenseLayer:
    """A layer as it is before any cut: the module that holds it, its sliceable tensors and its channel counts."""

    name: str
    module: nn.Module
    anatomy: _Anatomy
    tensors: Mapping[str, Tensor]
    totals: Mapping[str, int]

    @classmethod
    def of(cls, name: str, modules: Mapping[str, nn.Module]) -> _DenseLayer:
        """The layer called `name`; PlanError if there is none or if it is of a kind that is not sliced."""
        module = modules.get(name)
        if module is None:
            return cls._attribute(name, modules)
        anatomy = _anatomy(module)
        names = dict.fromkeys(axis.tensor for axis in anatomy.axes) if anatomy else {}
        own = {**module._parameters, **module._buffers}
        required = {"weight"} & names.keys() if not isinstance(module, nn.modules.batchnorm._NormBase) else set()
        if anatomy is None or any(tensor not in own for tensor in required):
            kind = f"{type(module).__name__}, of own plain tensors" if anatomy else type(module).__name__
            message = f"layer {name} is a {kind}: it cannot be cut"
            raise PlanError(message, "only convolutions, linear layers, norms, PReLU and gains can")
        tensors = {tensor: value.detach() for tensor in names if (value := own.get(tensor)) is not None}
        return cls(name, module, anatomy, tensors, {c.attribute: int(getattr(module, c.attribute)) for c in anatomy.counts})

    @classmethod
    def _attribute(cls, name: str, modules: Mapping[str, nn.Module]) -> _DenseLayer:
        """A module's own parameter, of one number per channel or cut along the axis behind an @, or its number of heads."""
        place, _, attribute = name.rpartition(".")
        attribute, _, along = attribute.partition("@")
        module = modules.get(place)
        value = getattr(module, attribute, None) if module is not None and attribute in _attributes(module) else None
        if module is not None and isinstance(value, int) and attribute in HEADS:
            return cls(name, module, _Anatomy((), (_Count(attribute, "out"),)), {}, {attribute: value})
        if module is not None and isinstance(value, Tensor):
            axis = value.shape.index(max(value.shape)) if value.numel() == max(value.shape, default=0) > 1 else None
            if along.isdecimal() and int(along) < value.dim():
                axis = int(along)
            if axis is not None:
                return cls(name, module, _Anatomy((_Axis(attribute, axis, "out"),), ()), {attribute: value.detach()}, {})
        raise PlanError(f"the plan cuts layer {name}, which the network does not have", "is it another network's plan?")

    def _total(self, side: Side) -> int:
        """Channels at `side` of the dense layer."""
        if not self.anatomy.counts:
            return next(self.tensors[axis.tensor].shape[axis.axis] for axis in self.anatomy.axes)
        return next((self.totals[c.attribute] for c in self.anatomy.counts if (c.side, c.times, c.per) == (side, 1, 1)), 0)

    def _check(self, side: Side, kept: tuple[int, ...]) -> None:
        """PlanError unless `kept` fits this layer."""
        total = self._total(side)
        if not kept or kept[0] < 0 or kept[-1] >= total or any(a >= b for a, b in pairwise(kept)):
            shown = f"{len(kept)} in {min(kept)}..{max(kept)}" if kept else "none"
            expected = f"at least one, ascending, in 0..{total - 1}" if total else "no cut at this side"
            message = f"layer {self.name}, side {side}: kept channels are {shown}, expected {expected}"
            raise PlanError(message, "is it another network's plan?")
        for at, size in self.anatomy.even:
            if at == side and list(kept) != [base + c for base in range(0, total, size) for c in kept if c < size]:
                message = f"layer {self.name}, side {side}: its {total // size} divisions would keep unequal channels"
                raise PlanError(message, "is it another network's plan?")
        block = self.anatomy.blocks
        if block > 1 and list(kept) != [c + at for c in kept if c % block == 0 for at in range(block)]:
            raise PlanError(
                f"layer {self.name}: its divisions of {block} channels would not be kept whole", "is it another network's plan?"
            )

    def cut(self, cut: Cut) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The tensors and counts under `cut`: new where a side is cut, the dense ones elsewhere."""
        kept: dict[Side, tuple[int, ...]] = {}
        sides: tuple[tuple[Side, tuple[int, ...] | None], ...] = (("out", cut.kept_out), ("in", cut.kept_in))
        for side, channels in sides:
            if channels is not None:
                self._check(side, channels)
                kept[side] = channels
        tensors = dict(self.tensors)
        for axis in self.anatomy.axes:
            if axis.tensor in tensors and axis.side in kept:
                tensor = tensors[axis.tensor]
                index = torch.tensor(axis.index(kept[axis.side]), device=tensor.device)
                tensors[axis.tensor] = tensor.index_select(axis.axis, index)
        counts = {
            c.attribute: len(kept[c.side]) * c.times // c.per if c.side in kept else self.totals[c.attribute]
            for c in self.anatomy.counts
        }
        return tensors, counts


def _attributes(module: nn.Module) -> frozenset[str]:
    """What a plan may name of a module: its own parameters and buffers, and its number of heads."""
    return frozenset((*module._parameters, *module._buffers, *(name for name in HEADS if name in vars(module))))


def slim(model: nn.Module, cuts: Mapping[str, Cut]) -> nn.Module:
    """A deep copy of `model` in which every layer keeps only the channels that `cuts` names, by layer name.

    Weights, biases, running statistics and the counting attributes are cut, each side of each layer once; `requires_grad` and
    train or eval mode stay as they are, and so does `model`. Raises PlanError if a name or an index does not fit the network.
    """
    slimmed = copy.deepcopy(model)
    modules = dict(slimmed.named_modules(remove_duplicate=False))
    for name, cut in cuts.items():
        dense = _DenseLayer.of(name, modules)
        tensors, counts = dense.cut(cut)
        for key, tensor in tensors.items():
            if tensor is not dense.tensors[key]:
                old = getattr(dense.module, key)
                is_parameter = isinstance(old, nn.Parameter)
                setattr(dense.module, key, nn.Parameter(tensor, old.requires_grad) if is_parameter else tensor)
        for key, count in counts.items():
            setattr(dense.module, key, count)
    return slimmed


def outputs_of(value: object) -> list[Tensor]:
    """The tensors in what a network returned: a tensor, or sequences and mappings of them, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in outputs_of(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in outputs_of(item)]
    return []


def relative_difference(value: object, reference: object) -> float:
    """Largest absolute difference over the largest absolute value, the worst over all output tensors; inf if not comparable.

    Both are what a network returned. A tensor that is zero throughout must be matched exactly; NaN matches nothing.
    """
    ours, theirs = outputs_of(value), outputs_of(reference)
    if not theirs or [t.shape for t in ours] != [t.shape for t in theirs]:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        difference, scale = float((a - b).abs().max()), float(b.abs().max())
        ratio = difference / scale if scale else (0.0 if difference == 0 else float("inf"))
        worst = max(worst, ratio) if ratio == ratio else float("inf")
    return worst


def check(
    model: nn.Module,
    groups: Groups,
    selection: Selection,
    slim: nn.Module,
    x: Tensor | Sequence[Tensor],
    tolerance: float = 1e-5,
) -> float:
    """The post-condition of surgery: on `x`, `slim` computes what `model` computes with the pruned units masked.

    `x` is (batch, channels, ...) in the dtype of the model, or one such per input. Both run in evaluation mode and are left as
    they were. A network that float32 itself does not determine to the tolerance is judged in float64. Returns the relative
    difference; raises SurgeryError if it exceeds `tolerance`.
    """
    inputs = (x,) if isinstance(x, Tensor) else tuple(x)
    difference = _difference(model, groups, selection, slim, inputs)
    if difference > tolerance and any(parameter.dtype == torch.float32 for parameter in model.parameters()):
        wide = tuple(copy.deepcopy(network).double() for network in (model, slim))
        wide_inputs = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
        difference = _difference(wide[0], groups, selection, wide[1], wide_inputs)
    if difference > tolerance:
        raise SurgeryError(
            f"the slim network differs from the masked one by {difference:.1e} relative, expected at most {tolerance:.0e}",
            "please report this network; `--ignore` keeps a layer out of pruning",
        )
    return difference


def _difference(model: nn.Module, groups: Groups, selection: Selection, slim: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    keep = torch.from_numpy(~selection.x)[None].to(inputs[0])
    with torch.no_grad(), frozen(model), frozen(slim):
        with consumer_masks(model, groups, keep):
            masked = answer(model, *inputs)
        return relative_difference(answer(slim, *inputs), masked)


_Given: TypeAlias = tuple[Tensor, Tensor | None]
Weights: TypeAlias = Callable[[str, Cut], _Given | None]
"""For a convolution or linear layer by its cut, the weight and the bias (or None) that it gets, or None: the sliced ones."""

REMEMBERED = 2**26
"""Bytes of weights given for cuts that a shell keeps, 64 MiB: the ones asked for last."""


class SlicedShell:
    """One copy of a network that takes any cut in turn, for measuring many candidates.

    Layers are cut anew from the dense tensors, and only those whose cut differs from the last one's: nothing is deep-copied.
    `weights` is asked for each of these that is a convolution or linear; what it gives must be a function of name and cut, and
    is kept while it fits in `REMEMBERED` bytes: candidates of a search return to the cuts of the best one again and again.
    The network returned is the same object every time; it needs no gradients, must not be trained, and stays as it is until the
    next `cut`. Not to be shared between threads.
    """

    def __init__(self, model: nn.Module, weights: Weights | None = None) -> None:
        self._inner = copy.deepcopy(model).requires_grad_(False)
        self._modules = dict(self._inner.named_modules(remove_duplicate=False))
        self._dense: dict[str, _DenseLayer] = {}
        self._current: dict[str, Cut] = {}
        self._weights, self._given, self._bytes = weights, OrderedDict[tuple[str, Cut], _Given](), 0
        self._labels: dict[int, tuple[str, str, bytes]] = {}

    def cut(self, cuts: Mapping[str, Cut]) -> nn.Module:
        """The network under `cuts` alone, whatever was cut before. Raises PlanError like `slim`; then nothing has changed."""
        names = dict.fromkeys((*self._current, *cuts))
        changed = [name for name in names if cuts.get(name, Cut()) != self._current.get(name, Cut())]
        for name in changed:
            if name not in self._dense:
                self._dense[name] = _DenseLayer.of(name, self._modules)
        fresh = {name: self._cut(name, cuts.get(name, Cut())) for name in changed}
        for name, (tensors, counts) in fresh.items():
            module = self._dense[name].module
            for key, tensor in tensors.items():
                self._labels.pop(id(getattr(module, key)), None)  # a bias may go, and its id be another's
                _exchange(module, key, tensor)
            for key, count in counts.items():
                setattr(module, key, count)
            self._label(name, tensors, cuts.get(name, Cut()))
        self._current = dict(cuts)
        return self._inner

    @property
    def labels(self) -> Mapping[int, tuple[str, str, bytes]]:
        """By the `id` of each tensor that was ever cut, what tells its values from those that it has under other cuts."""
        return self._labels

    def _label(self, name: str, tensors: Mapping[str, Tensor | None], cut: Cut) -> None:
        state = hashlib.blake2b(repr(cut).encode(), digest_size=16).digest()
        for key in tensors:
            self._labels[id(getattr(self._dense[name].module, key))] = name, key, state

    def _asked(self, weights: Weights, name: str, cut: Cut) -> _Given | None:
        """What `weights` gives, or gave not long ago."""
        given = self._given.pop((name, cut), None)
        if given is None:
            given = weights(name, cut)
            if given is None:
                return None
            self._bytes += _size(given)
        self._given[name, cut] = given  # the last one now
        while self._bytes > REMEMBERED:
            self._bytes -= _size(self._given.popitem(last=False)[1])
        return given

    def _cut(self, name: str, cut: Cut) -> tuple[dict[str, Tensor | None], dict[str, int]]:
        """The tensors and counts of a layer under its cut; a bias that it does not get is None."""
        dense = self._dense[name]
        sliced, counts = dense.cut(cut)
        tensors: dict[str, Tensor | None] = dict(sliced)
        if self._weights is None or not isinstance(dense.module, nn.modules.conv._ConvNd | nn.Linear):
            return tensors, counts
        tensors.setdefault("bias", None)
        given = self._asked(self._weights, name, cut)
        if given is not None:
            weight, bias = given
            wanted = tuple(sliced["weight"].shape), counts["out_features" if "out_features" in counts else "out_channels"]
            got = tuple(weight.shape), wanted[1] if bias is None else bias.numel()
            if got != wanted:
                raise PlanError(f"layer {name}: the weights that were given for its cut are {got}, expected {wanted}")
            tensors.update(weight=weight.detach(), bias=None if bias is None else bias.detach())
        return tensors, counts


def _size(given: _Given) -> int:
    """Bytes of what `weights` gave."""
    return sum(tensor.numel() * tensor.element_size() for tensor in given if tensor is not None)


def _exchange(module: nn.Module, key: str, tensor: Tensor | None) -> None:
    """Gives `module` the values `tensor` for its parameter or buffer `key`; the same object where it has one."""
    held = getattr(module, key)
    if tensor is None or held is None:
        setattr(module, key, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
    else:
        held.data = tensor
