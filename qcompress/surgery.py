"""Channels removed for good: the one place where a network's tensors change shape.

A cut is keyed by layer name and applied once per layer side, so no index ever shifts under another. Nothing here knows how
channels are coupled: `Groups.cuts` says what to remove, `check` says whether the result is the network that the masks promised.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from qcompress.errors import PlanError, SurgeryError
from qcompress.frozen import frozen
from qcompress.groups import Cut, Groups, Side
from qcompress.masks import consumer_masks
from qcompress.selection import Selection

__all__ = ["SlicedShell", "check", "outputs_of", "relative_difference", "slim"]


@dataclass(frozen=True)
class _Anatomy:
    """Where the channels of a kind of layer are: (tensor, axis, side), and (attribute that counts them, side)."""

    tensors: tuple[tuple[str, int, Side], ...]
    counts: tuple[tuple[str, Side], ...]


_IN_OUT: tuple[tuple[str, Side], ...] = (("in_channels", "in"), ("out_channels", "out"))
_CONV = _Anatomy((("weight", 0, "out"), ("weight", 1, "in"), ("bias", 0, "out")), _IN_OUT)
_TRANSPOSED = _Anatomy((("weight", 1, "out"), ("weight", 0, "in"), ("bias", 0, "out")), _IN_OUT)
_DEPTHWISE = _Anatomy(
    (("weight", 0, "out"), ("bias", 0, "out")), (("out_channels", "out"), ("in_channels", "out"), ("groups", "out"))
)
_LINEAR = _Anatomy(_CONV.tensors, (("in_features", "in"), ("out_features", "out")))
_BATCHNORM = _Anatomy(
    tuple((name, 0, "out") for name in ("weight", "bias", "running_mean", "running_var")), (("num_features", "out"),)
)
_PRELU = _Anatomy((("weight", 0, "out"),), (("num_parameters", "out"),))


def _anatomy(module: nn.Module) -> _Anatomy | None:
    """The anatomy of `module`, None for a kind that is not sliced."""
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups == 1:
            return _TRANSPOSED if module.transposed else _CONV
        return _DEPTHWISE if module.groups == module.in_channels == module.out_channels else None
    if isinstance(module, nn.Linear):
        return _LINEAR
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _BATCHNORM
    return _PRELU if isinstance(module, nn.PReLU) else None


@dataclass(frozen=True)
class _DenseLayer:
    """A layer as it is before any cut: its sliceable tensors and its channel counts."""

    name: str
    anatomy: _Anatomy
    tensors: Mapping[str, Tensor]
    totals: Mapping[str, int]

    @classmethod
    def of(cls, name: str, module: nn.Module | None) -> _DenseLayer:
        """The layer `module`, called `name`; PlanError if there is none or if it is of a kind that is not sliced."""
        if module is None:
            raise PlanError(f"the plan cuts layer {name}, which the network does not have", "is it another network's plan?")
        anatomy = _anatomy(module)
        names = dict.fromkeys(tensor for tensor, _, _ in anatomy.tensors) if anatomy else {}
        own = {**module._parameters, **module._buffers}
        if anatomy is None or any(tensor not in own for tensor in names):
            kind = f"{type(module).__name__}, of own plain tensors" if anatomy else type(module).__name__
            raise PlanError(f"layer {name} is a {kind}: it cannot be cut", "only convolution, linear, BatchNorm, PReLU can")
        tensors = {tensor: value.detach() for tensor in names if (value := own[tensor]) is not None}
        return cls(name, anatomy, tensors, {count: int(getattr(module, count)) for count, _ in anatomy.counts})

    def _indices(self, side: Side, kept: tuple[int, ...]) -> Tensor:
        """`kept` as an index, if it fits this layer: PlanError otherwise."""
        total = next((self.totals[count] for count, at in self.anatomy.counts if at == side), 0)
        if not kept or kept[0] < 0 or kept[-1] >= total or any(a >= b for a, b in pairwise(kept)):
            shown = f"{len(kept)} in {min(kept)}..{max(kept)}" if kept else "none"
            expected = f"at least one, ascending, in 0..{total - 1}" if total else "no cut at this side"
            message = f"layer {self.name}, side {side}: kept channels are {shown}, expected {expected}"
            raise PlanError(message, "is it another network's plan?")
        device = next((tensor.device for tensor in self.tensors.values()), None)
        return torch.tensor(kept, device=device)

    def cut(self, cut: Cut) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The tensors and counts under `cut`: new where a side is cut, the dense ones elsewhere."""
        sides: tuple[tuple[Side, tuple[int, ...] | None], ...] = (("out", cut.kept_out), ("in", cut.kept_in))
        kept = {side: self._indices(side, indices) for side, indices in sides if indices is not None}
        tensors = dict(self.tensors)
        for name, axis, side in self.anatomy.tensors:
            if name in tensors and side in kept:
                tensors[name] = tensors[name].index_select(axis, kept[side])
        return tensors, {name: len(kept[side]) if side in kept else self.totals[name] for name, side in self.anatomy.counts}


def slim(model: nn.Module, cuts: Mapping[str, Cut]) -> nn.Module:
    """A deep copy of `model` in which every layer keeps only the channels that `cuts` names, by layer name.

    Weights, biases, running statistics and the counting attributes are cut, each side of each layer once; `requires_grad` and
    train or eval mode stay as they are, and so does `model`. Raises PlanError if a name or an index does not fit the network.
    """
    slimmed = copy.deepcopy(model)
    modules = dict(slimmed.named_modules(remove_duplicate=False))
    for name, cut in cuts.items():
        dense = _DenseLayer.of(name, modules.get(name))
        tensors, counts = dense.cut(cut)
        for key, tensor in tensors.items():
            if tensor is not dense.tensors[key]:
                old = getattr(modules[name], key)
                is_parameter = isinstance(old, nn.Parameter)
                setattr(modules[name], key, nn.Parameter(tensor, old.requires_grad) if is_parameter else tensor)
        for key, count in counts.items():
            setattr(modules[name], key, count)
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


def check(model: nn.Module, groups: Groups, selection: Selection, slim: nn.Module, x: Tensor, tolerance: float = 1e-5) -> float:
    """The post-condition of surgery: on `x`, `slim` computes what `model` computes with the pruned units masked.

    `x` is (batch, channels, ...) in the model's dtype. Both run in evaluation mode and are left as they were. Returns the
    relative difference; raises SurgeryError if it exceeds `tolerance`.
    """
    keep = torch.from_numpy(~selection.x)[None].to(x)
    with torch.no_grad(), frozen(model), frozen(slim):
        with consumer_masks(model, groups, keep):
            masked = model(x)
        difference = relative_difference(slim(x), masked)
    if difference > tolerance:
        raise SurgeryError(
            f"the slim network differs from the masked one by {difference:.1e} relative, expected at most {tolerance:.0e}",
            "please report this network; `--ignore` keeps a layer out of pruning",
        )
    return difference


class SlicedShell:
    """One copy of a network that takes any cut in turn, for measuring many candidates.

    Layers are cut anew from the dense tensors, and only those whose cut differs from the last one's: nothing is deep-copied.
    The network returned is the same object every time; it needs no gradients, must not be trained, and stays as it is until the
    next `cut`. Not to be shared between threads.
    """

    def __init__(self, model: nn.Module) -> None:
        self._inner = copy.deepcopy(model).requires_grad_(False)
        self._modules = dict(self._inner.named_modules(remove_duplicate=False))
        self._dense: dict[str, _DenseLayer] = {}
        self._current: dict[str, Cut] = {}

    def cut(self, cuts: Mapping[str, Cut]) -> nn.Module:
        """The network under `cuts` alone, whatever was cut before. Raises PlanError like `slim`; then nothing has changed."""
        names = dict.fromkeys((*self._current, *cuts))
        changed = [name for name in names if cuts.get(name, Cut()) != self._current.get(name, Cut())]
        for name in changed:
            if name not in self._dense:
                self._dense[name] = _DenseLayer.of(name, self._modules.get(name))
        fresh = {name: self._dense[name].cut(cuts.get(name, Cut())) for name in changed}
        for name, (tensors, counts) in fresh.items():
            module = self._modules[name]
            for key, tensor in tensors.items():
                getattr(module, key).data = tensor
            for key, count in counts.items():
                setattr(module, key, count)
        self._current = dict(cuts)
        return self._inner
