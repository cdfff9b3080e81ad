"""What every operation does to the labels of its inputs. A whitelist: an operation that is not here keeps whatever meets it.

Operations are those that reach PyTorch's dispatcher without gradients: composite ones arrive in their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qcompress.tracing_labels import Labels, Rank, Reason, broadcast, compressed, varying

__all__ = ["RULES", "Call", "Labelled"]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A tensor's shape and labels, which have as many axes and broadcast to it."""

    shape: tuple[int, ...]
    labels: Tensor

    def full(self) -> Tensor:
        """The labels at the tensor's own shape."""
        return self.labels.expand(self.shape)

    def along(self, axis: int) -> Tensor:
        """The labels at the tensor's own size along `axis`."""
        sizes = [-1] * len(self.shape)
        sizes[axis] = self.shape[axis]
        return self.labels.expand(sizes)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation: its tensors with their labels, and what it returned."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    labels: Labels
    of: Callable[[Tensor], Labelled]
    is_constant: Callable[[Tensor], bool]
    name: str
    where: str  # the module that called it

    def first(self) -> Labelled:
        """The first argument."""
        return self.of(self.args[0])

    def tensors(self) -> list[Labelled]:
        """All tensors among the arguments, those in lists included."""
        leaves = torch.utils._pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [self.of(leaf) for leaf in leaves if isinstance(leaf, Tensor)]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by place or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def mixes(self, labels: Tensor, axes: Sequence[int]) -> Tensor:
        """Tie `labels` along `axes`, because the operation mixes what lies there."""
        if any(labels.shape[axis] > 1 for axis in axes):
            place = f" in {self.where}" if self.where else ""
            self.labels.note(labels, Reason(Rank.OPERATION, f"operation {self.name}{place} mixes its channels"))
        return self.labels.tie(labels, axes)


Rule = Callable[[Call], "list[Tensor] | None"]
"""The labels of each output, or None where the operation cannot be followed."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_POINTWISE = _words(
    "abs acos add addcdiv addcmul alias asin atan atan2 bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max clamp_min "
    "clone copy cos cosh detach div elu eq erf erfc exp exp2 expm1 fill floor floor_divide fmod ge gelu gt hardshrink "
    "hardsigmoid hardswish hardtanh isnan le leaky_relu lerp lift_fresh log log10 log1p log2 log_sigmoid_forward logical_and "
    "logical_not logical_or lt masked_fill maximum minimum mish mul nan_to_num native_dropout ne neg ones_like pow prelu "
    "_prelu_kernel rand_like randn_like reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin sinh "
    "softplus softshrink sqrt square sub tan tanh threshold _to_copy true_divide where zero zeros_like full_like"
)
_SPATIAL = _words(
    "adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d grid_sampler_2d grid_sampler_3d max_pool1d "
    "max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices mkldnn_max_pool2d reflection_pad1d "
    "reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d upsample_bicubic2d "
    "_upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d "
    "upsample_trilinear3d"
)
_REDUCTIONS = _words("amax amin argmax argmin linalg_vector_norm logsumexp max mean min norm prod std sum var var_mean")
_ALONG = _words("_softmax _log_softmax cummax cumprod cumsum softmax log_softmax")
_REARRANGED = _words(
    "_reshape_alias _unsafe_view channel_shuffle expand native_channel_shuffle permute pixel_shuffle pixel_unshuffle repeat "
    "reshape squeeze t tile transpose unfold unsqueeze view"
)
_RESHAPED = _words("_reshape_alias _unsafe_view reshape squeeze view")
_ATTENTION = _words(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_cudnn_attention scaled_dot_product_attention"
)


def unified(call: Call, inputs: Sequence[Labelled], shape: Sequence[int]) -> Tensor:
    """Labels of an element-wise result of `shape`: those of all inputs united, but for inputs that are only spread over it.

    An input is spread if it has size 1 where labels change, and has itself no change of labels: a gate of one channel.
    """
    ndim = len(shape)
    aligned = [
        Labelled(
            (1,) * (ndim - len(item.shape)) + item.shape,
            item.labels.reshape((1,) * (ndim - len(item.shape)) + item.labels.shape),
        )
        for item in inputs
    ]
    axes = {axis for item in aligned for axis in varying(item.labels)} or {axis for axis in range(ndim) if shape[axis] > 1}
    taking = [i for i in aligned if varying(i.labels) or all(i.shape[axis] == shape[axis] for axis in axes)]
    base, *others = [item.labels for item in taking or aligned]
    for other in others:
        call.labels.unite(base, other)
    return broadcast(base, *others)[0]


def _pointwise(call: Call) -> list[Tensor] | None:
    labels = unified(call, call.tensors(), tuple(call.outputs[0].shape))
    return [labels] * len(call.outputs)


def _spatial(call: Call) -> list[Tensor] | None:
    x = call.first()
    if len(x.shape) < 3 or any(out.shape[:2] != x.shape[:2] for out in call.outputs):
        return None
    labels = call.labels.tie(x.labels, range(2, len(x.shape)))
    return [labels] * len(call.outputs)


def _axes(call: Call, ndim: int, place: int = 1) -> list[int]:
    """The axes of a reduction: all, where none is named."""
    given = call.argument(place, "dim")
    if given is None or given == []:
        return list(range(ndim))
    axes = given if isinstance(given, Sequence) else (given,)
    return [axis % ndim for axis in axes]


def _reduction(call: Call) -> list[Tensor] | None:
    x = call.first()
    place = 2 if call.name in ("linalg_vector_norm", "norm") else 1
    if call.name in ("max", "min") and len(call.tensors()) > 1:
        return _pointwise(call)
    axes = _axes(call, len(x.shape), place)
    labels = call.mixes(x.labels, axes)
    if call.outputs[0].dim() != len(x.shape):
        labels = labels.reshape([size for axis, size in enumerate(labels.shape) if axis not in axes])
    return [labels] * len(call.outputs)


def _along(call: Call) -> list[Tensor] | None:
    x = call.first()
    labels = call.mixes(x.labels, [int(call.argument(1, "dim", -1)) % len(x.shape)])
    return [labels] * len(call.outputs)


def _rearranged(call: Call) -> list[Tensor] | None:
    """What only moves numbers: do to the labels what was done to the numbers."""
    x = call.first()
    if call.name in ("permute", "transpose", "t", "unsqueeze"):
        return [call.func(x.labels, *call.args[1:], **call.kwargs)]
    if call.name == "expand":
        spare = call.outputs[0].dim() - len(x.shape)
        return [x.labels.reshape((1,) * spare + x.labels.shape)]
    if call.name in ("channel_shuffle", "native_channel_shuffle") and x.labels.shape[1] > 1:
        call.labels.tie(x.along(1).reshape(call.argument(1, "groups"), -1), [0])  # equal places of all parts
    if call.name in _RESHAPED:
        return [compressed(x.full().reshape(call.outputs[0].shape))]
    return [compressed(call.func(x.full().contiguous(), *call.args[1:], **call.kwargs))]


def _reordered(call: Call) -> list[Tensor] | None:
    """Flip and roll. What is rolled over the end depends on how many channels there are."""
    x = call.first()
    given = call.argument(2 if call.name == "roll" else 1, "dims", 0)
    axes = [axis % len(x.shape) for axis in (given if isinstance(given, Sequence) else (given,))]
    if call.name == "roll":
        return None if any(x.labels.shape[axis] > 1 for axis in axes) else [x.labels]
    return [x.labels.flip([axis for axis in axes if x.labels.shape[axis] > 1])]


def _picked(call: Call) -> list[Tensor] | None:
    """Select and unbind: what is told apart by a number in the code cannot shrink."""
    x = call.first()
    place = 1
    axis = int(call.argument(place, "dim", 0)) % len(x.shape)
    labels = call.mixes(x.labels, [axis]).squeeze(axis)
    return [labels] * len(call.outputs)


def _sliced(call: Call) -> list[Tensor] | None:
    """One of several equal parts, or every so-many-th: what the others must lose at equal places. Other slices are refused."""
    x = call.first()
    axis = int(call.argument(1, "dim", 0)) % len(x.shape)
    size, step = x.shape[axis], int(call.argument(4, "step", 1))
    start, end = call.argument(2, "start"), call.argument(3, "end")
    start = 0 if start is None else max(start + size if start < 0 else start, 0)
    end = size if end is None else min(end + size if end < 0 else end, size)
    if x.labels.shape[axis] == 1 or (start == 0 and end == size and step == 1):
        return [x.labels]
    along = x.along(axis).movedim(axis, 0)
    width = end - start
    if step == 1 and width > 0 and size % width == 0 and start % width == 0:
        call.labels.tie(along.reshape(-1, width, *along.shape[1:]), [0])
    elif step > 1 and size % step == 0 and start < step and end == size:
        call.labels.tie(along.reshape(-1, step, *along.shape[1:]), [1])
    else:
        return None
    return [compressed(along[start:end:step].movedim(0, axis))]


def _split(call: Call) -> list[Tensor] | None:
    """Parts of equal size stay equal: channel for channel they go together. Unequal ones are refused."""
    x = call.first()
    axis = int(call.argument(2, "dim", 0)) % len(x.shape)
    if x.labels.shape[axis] == 1:
        return [x.labels] * len(call.outputs)
    if len({out.shape[axis] for out in call.outputs}) > 1:
        return None
    parts = torch.split(x.along(axis), call.outputs[0].shape[axis], axis)
    for part in parts[1:]:
        call.labels.unite(parts[0], part)
    return [compressed(part) for part in parts]


def _joined(call: Call) -> list[Tensor] | None:
    """Cat and stack."""
    parts = [call.of(tensor) for tensor in call.args[0]]
    parts = [part for part in parts if part.shape != (0,)]
    axis = int(call.argument(1, "dim", 0))
    if call.name == "stack":
        axis %= len(parts[0].shape) + 1
        parts = [Labelled((*p.shape[:axis], 1, *p.shape[axis:]), p.labels.unsqueeze(axis)) for p in parts]
    axis %= len(parts[0].shape)
    whole = [part.along(axis) for part in parts]
    sizes = [max(w.shape[d] for w in whole) for d in range(len(parts[0].shape))]
    wide = [w.expand([w.shape[d] if d == axis else sizes[d] for d in range(len(sizes))]) for w in whole]
    return [compressed(torch.cat(wide, axis))]


def _padded(call: Call) -> list[Tensor] | None:
    """Zeros around: along an axis of channels, channels that always stay."""
    x = call.first()
    pads: list[int] = list(call.args[1])
    labels = x.labels
    for number in range(len(pads) // 2):
        axis = len(x.shape) - 1 - number
        ends = pads[2 * number], pads[2 * number + 1]
        if labels.shape[axis] > 1 and any(ends):
            if min(ends) < 0:
                return None
            sides = []
            for size in ends:
                shape = [labels.shape[d] if d != axis else size for d in range(labels.dim())]
                sides.append(call.labels.fresh(shape))
                if size:
                    call.labels.keep(sides[-1], Reason(Rank.OPERATION, "padding adds channels that are no layer's"))
            labels = torch.cat((sides[0], labels, sides[1]), axis)
    return [labels]


def _indexed(call: Call) -> list[Tensor] | None:
    """Picked by constant indices: the axes that these index cannot shrink."""
    x = call.first()
    indices = call.args[1] if call.name == "index" else [None] * (int(call.args[1]) % len(x.shape)) + [call.args[2]]
    if not all(call.is_constant(i) for i in indices if isinstance(i, Tensor)):
        return None
    labels = call.mixes(x.labels, [axis for axis, index in enumerate(indices) if isinstance(index, Tensor)])
    whole = Labelled(x.shape, labels).full().contiguous()
    return [compressed(call.func(whole, *call.args[1:], **call.kwargs))]


def _product(call: Call) -> list[Tensor] | None:
    """(..., m, k) @ (..., k, n): what is summed over stands and falls together."""
    added = call.name in ("addmm", "baddbmm")
    a, b = (call.of(tensor) for tensor in call.args[added : added + 2])
    if min(len(a.shape), len(b.shape)) < 2:
        return None
    ndim = max(len(a.shape), len(b.shape))
    left, right = (item.labels.reshape((1,) * (ndim - len(item.shape)) + item.labels.shape) for item in (a, b))
    summed = left.shape[-1] > 1 or right.shape[-2] > 1
    left, right = call.mixes(left, [ndim - 1]), call.mixes(right, [ndim - 2])
    if summed or (varying(left) and varying(right)):
        call.labels.unite(left, right)
        labels = broadcast(left, right)[0]
    elif varying(right):
        labels = right
    else:
        labels = left
    if added:
        bias = call.first()
        labels = unified(call, [Labelled(tuple(call.outputs[0].shape), labels), bias], tuple(call.outputs[0].shape))
    return [labels]


def _attention(call: Call) -> list[Tensor] | None:
    """softmax(q k' / s) v with (..., places, depth): q and k go by heads; of v, so do the heads."""
    q, k, v = (call.of(tensor) for tensor in call.args[:3])
    if not len(q.shape) == len(k.shape) == len(v.shape):
        return None
    last = len(q.shape) - 1
    queries, keys = (call.mixes(item.labels, [last - 1, last]) for item in (q, k))
    values = call.mixes(v.labels, [last - 1])
    if q.labels.shape[last] > 1 or k.labels.shape[last] > 1 or varying(queries) or varying(keys):
        call.labels.unite(queries, keys)
    if varying(queries) or varying(keys):
        call.labels.unite(queries, values)
    return [values, *([values[..., 0]] * (len(call.outputs) - 1))]


def _glu(call: Call) -> list[Tensor] | None:
    """The first half times the sigmoid of the second."""
    x = call.first()
    axis = int(call.argument(1, "dim", -1)) % len(x.shape)
    a, b = x.along(axis).chunk(2, axis)
    if x.labels.shape[axis] > 1:
        call.labels.unite(a, b)
    return [compressed(a)]


def _normalised(call: Call) -> list[Tensor] | None:
    """native_layer_norm: statistics over the last axes, then a gain and a shift per place of these."""
    x = call.first()
    ndim = len(x.shape)
    axes = [ndim - 1 - number for number in range(len(call.args[1]))]
    labels = call.mixes(x.labels, axes)
    affine = [call.of(tensor) for tensor in call.args[2:4] if isinstance(tensor, Tensor)]
    found = [unified(call, [Labelled(x.shape, labels), *affine], x.shape)]
    return [call.labels.tie(found[0], axes)] + [labels] * (len(call.outputs) - 1)


def _batch_normalised(call: Call) -> list[Tensor] | None:
    """native_batch_norm outside of a layer: a gain, a shift and statistics per channel."""
    x = call.first()
    shape = (1, x.shape[1], *[1] * (len(x.shape) - 2))
    given = [call.of(tensor) for tensor in call.args[1:5] if isinstance(tensor, Tensor)]
    if any(item.shape != (x.shape[1],) for item in given) or not isinstance(call.args[3], Tensor):
        return None
    each = [Labelled(shape, item.labels.reshape([-1 if axis == 1 else 1 for axis in range(len(shape))])) for item in given]
    labels = unified(call, [x, *each], x.shape)
    return [labels, *(call.labels.fresh([1] * out.dim()) for out in call.outputs[1:])]


RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(_REARRANGED, _rearranged),
    **dict.fromkeys(_words("flip roll"), _reordered),
    **dict.fromkeys(_words("select unbind"), _picked),
    **dict.fromkeys(_words("split split_with_sizes"), _split),
    **dict.fromkeys(_words("cat stack"), _joined),
    **dict.fromkeys(_words("index index_select"), _indexed),
    **dict.fromkeys(_words("addmm baddbmm bmm matmul mm"), _product),
    **dict.fromkeys(_ATTENTION, _attention),
    **dict.fromkeys(_words("native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm"), _batch_normalised),
    "constant_pad_nd": _padded,
    "glu": _glu,
    "native_layer_norm": _normalised,
    "slice": _sliced,
}
