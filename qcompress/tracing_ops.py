"""Which autograd operations keep the channels of an image batch apart, so that a channel behind one is the channel before it.

A whitelist: what is not known to be harmless is refused, with the reason. Shapes come from the graph itself, where every edge
carries the shape of the tensor that flowed through it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["broadcasts", "input_shapes", "name_of", "output_shape", "refusal"]

Shape = tuple[int, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_POINTWISE = _words(
    "Abs Add Addcdiv Addcmul Alias Atan Celu Clamp ClampMax ClampMin Clone Copy Cos Div Elu Erf Exp Expand Expm1 "
    "FeatureDropout Gelu Hardshrink Hardsigmoid Hardswish Hardtanh LeakyRelu Lerp Log Log10 Log1P Log2 LogSigmoid Maximum "
    "Minimum Mish Mul NativeDropout Neg Pow Reciprocal Relu Rsqrt Rsub Sigmoid Silu Sin Softplus Softshrink Sqrt Sub Tan Tanh "
    "Threshold ToCopy Where"
)
_SPATIAL = _words(
    "AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D AvgPool2D AvgPool3D MaxPool2DWithIndices "
    "MaxPool3DWithIndices MkldnnAdaptiveAvgPool2D ReflectionPad1D ReflectionPad2D ReflectionPad3D ReplicationPad1D "
    "ReplicationPad2D ReplicationPad3D UpsampleBicubic2D UpsampleBicubic2DAa UpsampleBilinear2D UpsampleBilinear2DAa "
    "UpsampleLinear1D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact1D UpsampleNearestExact2D "
    "UpsampleNearestExact3D UpsampleTrilinear3D"
)
_ALONG_AXES = _words("Amax Amin LogSoftmax Max Mean Min Slice Softmax Squeeze Std Sum Unsqueeze Var")
_RESHAPES = _words("ReshapeAlias UnsafeView View")


def name_of(grad_fn: Any) -> str:
    """The operation's name without the suffix: "Add" for AddBackward0."""
    name: str = grad_fn.name()
    return name.rsplit("::", 1)[-1].split("Backward")[0]


def output_shape(grad_fn: Any, number: int = 0) -> Shape:
    """Shape of the operation's output of that number (of the variable itself, for a leaf)."""
    if hasattr(grad_fn, "variable"):
        return tuple(grad_fn.variable.shape)
    return tuple(int(size) for size in grad_fn._input_metadata[number].shape)


def input_shapes(grad_fn: Any) -> list[Shape]:
    """Shapes of the inputs that the graph knows of: constants have no place in it."""
    return [output_shape(fn, number) for fn, number in grad_fn.next_functions if fn is not None]


def _axes(grad_fn: Any, ndim: int) -> list[int]:
    """The axes that the operation works along, 0 .. ndim - 1 (autograd stores -1 as 2**64 - 1); all of them if it says none."""
    saved = getattr(grad_fn, "_saved_dim", None)
    if saved is None or saved == ():
        return list(range(ndim))
    axes = saved if isinstance(saved, Sequence) else (saved,)
    return [(axis - 2**64 if axis >= 2**63 else axis) % ndim for axis in axes]


def broadcasts(grad_fn: Any, source: Shape) -> bool:
    """Whether `source`, an input of the operation, has one channel where the output has many: it is no channel of theirs."""
    target = output_shape(grad_fn)
    return name_of(grad_fn) in _POINTWISE and len(source) == len(target) and source[1] == 1 < target[1]


def _refuse_cat(grad_fn: Any, sources: list[Shape], target: Shape) -> str | None:
    if _axes(grad_fn, len(target)) != [1] or len(target) not in (2, 3, 4, 5):
        return "joins tensors along another axis than the channels"
    if sum(source[1] for source in sources) != target[1]:
        return "joins channels with a constant"
    return None


def _refuse_reshape(sources: list[Shape], target: Shape) -> str | None:
    kept = all(source[:2] == target[:2] for source in sources)
    flat = all(len(target) == 2 and (source[0], math.prod(source[1:])) == target for source in sources)
    return None if kept or flat else "rearranges the axes"


def refusal(grad_fn: Any) -> str | None:
    """Why channels cannot be followed through the operation; None if they can: channel c of each input is channel c behind it.

    Exceptions to the rule that the caller follows itself: "Cat" (along the channels), a flatten, and inputs that `broadcasts`.
    """
    name, sources, target = name_of(grad_fn), input_shapes(grad_fn), output_shape(grad_fn)
    shown = f"operation {name}"
    if len(target) < 2 or any(len(source) < 2 for source in sources):
        return f"{shown} loses the channel axis"
    if name == "Cat":
        reason = _refuse_cat(grad_fn, sources, target)
        return reason and f"{shown} {reason}"
    if name in _RESHAPES:
        reason = _refuse_reshape(sources, target)
        return reason and f"{shown} {reason}"
    if name in _ALONG_AXES:
        ndim = max(len(target), *(len(source) for source in sources)) if sources else len(target)
        if min(_axes(grad_fn, ndim)) < 2 or (name == "Slice" and (ndim != 4 or grad_fn._saved_dim >= ndim)):
            return f"{shown} mixes or selects channels"
    elif name == "ConstantPadNd":
        if any(grad_fn._saved_pad[2 * (len(target) - 2) :]):
            return f"{shown} adds channels"
    elif name not in _POINTWISE | _SPATIAL or (name == "Expand" and len(target) == 5):
        return f"{shown} is not known to keep channels apart"
    if any(source[:2] != target[:2] and not broadcasts(grad_fn, source) for source in sources):
        return f"{shown} changes the number of channels"
    return None
