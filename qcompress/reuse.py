"""Passes of a network that do only what changed: an operation on the same inputs and weights as before is not done again.

Every tensor of a pass has a label: an input or a weight one that the caller gives, any other the operation that made it with
its plain arguments and the labels of its tensors. The network's own code runs every time, on stand-ins that know their shape
but perhaps not their values. An operation whose label is known is put off, and done only if something new, or the output, needs
its values and they are not stored. So what is reused follows from the flow of the tensors alone, whatever the modules are; and
what is computed is computed by the same operations on the same tensors as without reuse: the same to the last bit.
"""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from qcompress.reuse_values import HOLE, Box, Call, Form, Label, Store, Value, emptied, filled, listed

__all__ = ["LIMIT", "Label", "Reuse", "Unfollowable"]

LIMIT = 2**31
"""Bytes of tensors that are kept, unless the caller says otherwise."""

_KNOWN = 20_000  # operations that are remembered, most of them without their values
_SMALL = 4096  # bytes up to which a tensor that the network makes in the pass is told by its values


class Unfollowable(Exception):  # noqa: N818 - no fault of the network: it has to be run as it is
    """The network does what cannot be put off: it writes into weights, or into memory that other tensors of it share."""


class Reuse:
    """Passes of one network, and what they have in common. Not to be shared between threads.

    The network must be in evaluation mode, and gradients off (`torch.no_grad`; some operations refuse stand-ins in
    `inference_mode`). At most `limit` bytes are kept; where that is too little, less is reused. Kept is what is computed for
    the second time: what one pass alone needs is not worth the memory that it takes from others. With `at_once` all is.
    """

    def __init__(self, model: nn.Module, limit: int = LIMIT, *, at_once: bool = False) -> None:
        self._model, self._store, self._at_once = model, Store(limit), at_once
        self._modules = tuple(model.modules())
        self._known: OrderedDict[Label, _Known] = OrderedDict()
        self._numbers = itertools.count()
        self._constants: dict[int, _Constant] = {}

    @property
    def bytes(self) -> int:
        """What is kept."""
        return self._store.bytes

    def __call__(self, inputs: Sequence[tuple[Tensor, Label]], weights: Mapping[int, Label] | None = None) -> Any:
        """What the network returns for tensors, each with the label that tells it from all others given here.

        `weights` has labels by `id` for parameters and buffers whose values are exchanged between passes; any other counts as
        the same while it is the same object and nothing was written into it. Neither the inputs nor what is returned may be
        written into. Raises Unfollowable.
        """
        if any(module.training for module in self._modules):
            raise Unfollowable("the network is in training mode")
        with _Watch(self, weights or {}):
            given = (_Stand(Value(("input", label), Form.of(x), Box(x, private=False)), _Family()) for x, label in inputs)
            found = self._model(*given)
        return tree_map_only(_Stand, self.computed, found)

    def computed(self, tensor: Tensor) -> Tensor:
        """What a stand-in stands for at this moment; for hooks, too. Not to be written into."""
        if not isinstance(tensor, _Stand):
            return tensor
        with self.aside():
            return self._tensor(tensor.value)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside the context, amid a pass, operations on tensors that are computed are done as usual: for hooks."""
        with _disable_current_modes():
            yield

    def label_of(self, tensor: Tensor) -> Label:
        """The label of a tensor that no operation of the pass made."""
        constant = self._constants.get(id(tensor)) or self._own(tensor)
        if constant is not None:
            if constant.state != _state(tensor):
                constant = self._constants[id(tensor)] = _Constant(tensor, _state(tensor), ("constant", next(self._numbers)))
            return constant.label
        small = tensor.numel() * tensor.element_size() <= _SMALL and tensor.layout == torch.strided and not tensor.is_complex()
        if small and tensor.device.type == "cpu":
            return "values", Form.of(tensor), bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())
        return "unknown", next(self._numbers)

    def _own(self, tensor: Tensor) -> _Constant | None:
        """What is noted of `tensor` from now on, if it is the network's."""
        tables = (t for m in self._modules for t in (m._parameters, m._buffers, vars(m)))
        if not any(held is tensor for table in tables for held in table.values()):
            return None
        return self._constants.setdefault(id(tensor), _Constant(tensor, _state(tensor), ("constant", next(self._numbers))))

    def made(self, call: Call, key: Label | None) -> _Known:
        """Fills `call.gives`: with what is known by `key`, put off, or else by doing the call."""
        known = None if key is None else self._known.get(key)
        if known is None:
            tensors, result = self._perform(call)
            outputs = tuple((next(self._numbers), Form.of(tensor)) for tensor in tensors)
            known = _Known(outputs, emptied(result), call.view)
            call.gives = tuple(Value(label, form) for label, form in known.outputs)
            self._settle(call, tensors, keep=self._at_once)
            if key is not None:
                self._remember(key, known)
            return known
        self._known.move_to_end(key)
        call.view = known.view
        boxes = [self._found(label) for label, _ in known.outputs]
        call.put_off = None in boxes
        call.gives = tuple(
            Value(label, form, box, call if box is None else None)
            for (label, form), box in zip(known.outputs, boxes, strict=True)
        )
        if call.put_off:
            for value in call.needs:
                value.waiting += 1
        return known

    def _remember(self, key: Label, known: _Known) -> None:
        self._known[key] = known
        while len(self._known) > _KNOWN:
            for label, _ in self._known.popitem(last=False)[1].outputs:
                self._store.drop(label)

    def _found(self, label: Label) -> Box | None:
        box = self._store.find(label)
        if box is not None:
            box.private = False  # two values have it now
        return box

    def _tensor(self, value: Value) -> Tensor:
        """Computes `value`, if it has to be, and all that it needs before it."""
        open_ = [value]  # a stack of our own: networks are deeper than Python's
        while open_:
            last = open_[-1]
            if last.box is None:
                assert last.call is not None
                missing = [needed for needed in last.call.needs if needed.box is None]
                if missing:
                    open_ += missing
                    continue
                call = last.call
                self._settle(call, self._perform(call)[0], keep=True)
                for needed in call.needs:
                    needed.waiting -= 1
            open_.pop()
        assert value.box is not None
        self._store.used(value.label)
        return value.box.tensor

    def _real(self, argument: Any) -> Any:
        """`argument` with tensors for the values in it."""
        if type(argument) is Value:
            return self._tensor(argument)
        return [self._real(item) for item in argument] if type(argument) is list else argument

    def _perform(self, call: Call) -> tuple[list[Tensor], Any]:
        """Does the operation: the tensors that it gives, and what it returns, for their arrangement."""
        args = [self._real(argument) for argument in call.args]
        kwargs = {name: self._real(argument) for name, argument in call.kwargs.items()}
        if call.written is None:
            result = call.func(*args, **kwargs)
            tensors = [result] if isinstance(result, Tensor) else [t for t in listed(result) if isinstance(t, Tensor)]
            self._share(call, tensors)
            return tensors, result
        target = args[call.written]
        if not self._taken(call.args[call.written], int(call.put_off)):
            target = target.clone()
        call.func(*(target if place == call.written else arg for place, arg in enumerate(args)), **kwargs)
        return [target], target

    def _share(self, call: Call, tensors: Sequence[Tensor]) -> None:
        """Notes whose memory the operation gave once more; some do so without saying it, as dropout."""
        given = {_memory(tensor) for tensor in tensors} - {0}
        if not call.view and any(_memory(constant) in given for constant in call.constants):
            raise Unfollowable(f"{call.func} returns memory of its argument without saying so")
        for value in call.needs:
            assert value.box is not None
            if call.view or _memory(value.box.tensor) in given:
                call.view, value.box.private = True, False

    def _taken(self, value: Value, waiting: int) -> bool:
        """Whether nobody but `waiting` calls can want `value`; then its memory is given away."""
        if value.box is None or not value.box.private or value.waiting > waiting:
            return False
        self._store.drop(value.label)
        value.box = None
        return True

    def _settle(self, call: Call, tensors: Sequence[Tensor], *, keep: bool) -> None:
        """Gives the values of `call` their tensors, and stores these if `keep`."""
        for value, tensor in zip(call.gives, tensors, strict=True):
            if Form.of(tensor) != value.form:
                raise Unfollowable(f"{call.func} gave {Form.of(tensor)} for what was {value.form}")
            value.call = None
            if value.box is None:
                value.box = Box(tensor, private=not call.view)
                if keep and not call.view:
                    self._store.put(value.label, value.box)


@dataclass(frozen=True)
class _Constant:
    """A tensor of the network's own, held so that its id stays its own, and where and when it was last written."""

    tensor: Tensor
    state: tuple[int, int | None]
    label: Label


@dataclass(frozen=True)
class _Known:
    """An operation that was done: labels and forms of the tensors that it gave, and what it returned without them."""

    outputs: tuple[tuple[Label, Form], ...]
    returned: Any
    view: bool


@dataclass(eq=False)
class _Family:
    """The stand-ins that share memory."""

    members: list[weakref.ref[_Stand]] = field(default_factory=list)


class _Stand(Tensor):
    """What the network's code sees of a value. Writing into it gives it another value."""

    value: Value
    family: _Family

    @staticmethod
    def __new__(cls, value: Value, family: _Family) -> _Stand:
        """A stand-in for `value` that shares the memory of `family`."""
        form = value.form
        made: _Stand = Tensor._make_wrapper_subclass(cls, form.shape, strides=form.stride, dtype=form.dtype, device=form.device)
        made.value, made.family = value, family
        family.members.append(weakref.ref(made))
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Called only where a tensor of a pass outlived it."""
        raise Unfollowable(f"{func} on a tensor of an earlier pass")

    def data_ptr(self) -> int:
        """There is nothing to point at."""
        raise Unfollowable("the network asks where a tensor's memory is")

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """There is nothing to share."""
        raise Unfollowable("the network hands a tensor to another library")


@dataclass(frozen=True)
class _Traits:
    """What an operation's schema says of it."""

    written: int | None  # the place of the argument that it writes into
    view: bool
    random: bool


@cache
def _traits(func: Any) -> _Traits:
    schema = func._schema
    written = [n for n, argument in enumerate(schema.arguments) if argument.alias_info and argument.alias_info.is_write]
    if len(written) > 1 or any(schema.arguments[n].kwarg_only for n in written):
        raise Unfollowable(f"{func} writes into several arguments")
    view = not written and any(returned.alias_info for returned in schema.returns)
    return _Traits(written[0] if written else None, view, torch.Tag.nondeterministic_seeded in func.tags)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operation of a pass to `reuse`. `weights` has labels by id for tensors that are not of the pass."""

    def __init__(self, reuse: Reuse, weights: Mapping[int, Label]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reuse, self._weights = reuse, weights
        self._views: dict[int, tuple[Tensor, Label]] = {}  # the tensor is held so that its id stays its own

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What `func` gives, as stand-ins."""
        if func is torch.ops.aten.detach_.default:  # how torch.tensor() ends; there are no gradients here
            return args[0]
        traits = _traits(func)
        target = None if traits.written is None else _alone(func, args[traits.written])
        needs: list[Value] = []
        constants: list[Tensor] = []
        exchanged, key = self._arguments(args, needs, constants)
        named, named_key = self._arguments(tuple(kwargs.values()), needs, constants) if kwargs else ([], None)
        names = tuple(kwargs) if kwargs else ()
        if traits.view and not needs:
            return self._real_view(func(*args, **(kwargs or {})), (func, key, names, named_key))
        call = Call(func, exchanged, dict(zip(names, named, strict=True)), needs, constants, traits.written, traits.view)
        known = self._reuse.made(call, None if traits.random else (func, key, names, named_key))
        if target is not None:
            if call.gives[0].form != target.value.form:
                raise Unfollowable(f"{func} changes the shape of its argument")
            target.value = call.gives[0]
            return target
        family = _family(args) if known.view else None
        if known.returned is HOLE:
            return _Stand(call.gives[0], family or _Family())
        return filled(known.returned, iter([_Stand(value, family or _Family()) for value in call.gives]))

    def _label(self, tensor: Tensor) -> Label:
        """The label of a tensor that is no stand-in."""
        if id(tensor) in self._views:
            return self._views[id(tensor)][1]
        label = self._weights.get(id(tensor))
        return self._reuse.label_of(tensor) if label is None else label

    def _real_view(self, result: Any, key: Label) -> Any:
        """A view of the network's own tensors stays one: foreign code may look at its memory, as numpy does."""
        for place, tensor in enumerate(listed(result) or [result]):
            self._views[id(tensor)] = tensor, (key, place)
        return result

    def _arguments(
        self, arguments: Sequence[Any], needs: list[Value], constants: list[Tensor]
    ) -> tuple[list[Any], tuple[Label, ...]]:
        """`arguments` with values for stand-ins, and what tells them from all others; notes the tensors among them."""
        exchanged: list[Any] = []
        key: list[Label] = []
        for argument in arguments:
            kind = type(argument)
            if kind is _Stand:
                argument = argument.value
                needs.append(argument)
                key.append(argument.label)
            elif isinstance(argument, Tensor):
                constants.append(argument)
                key.append(self._label(argument))
            elif kind is list or kind is tuple:
                argument, inner = self._arguments(argument, needs, constants)
                key.append(inner)
            else:
                key.append((kind, argument.hex() if kind is float else argument))
            exchanged.append(argument)
        return exchanged, tuple(key)


def _alone(func: Any, target: Any) -> _Stand:
    """`target`, if writing into it shows nowhere else."""
    if not isinstance(target, _Stand):
        raise Unfollowable(f"{func} writes into a tensor that is not of the pass")
    if len(target.family.members) > 1 and any((s := ref()) is not None and s is not target for ref in target.family.members):
        raise Unfollowable(f"{func} writes into memory that several tensors share")
    return target


def _family(args: tuple[Any, ...]) -> _Family:
    """Whose memory a view of `args` shares."""
    return next(argument.family for argument in args if isinstance(argument, _Stand))


def _state(tensor: Tensor) -> tuple[int, int | None]:
    """Where the values of `tensor` are, and how often they were written into."""
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version


def _memory(tensor: Tensor) -> int:
    """Where the memory of `tensor` begins, 0 if it has none."""
    return tensor.untyped_storage().data_ptr()
