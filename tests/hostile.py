"""Files that a stranger might send: valid ones to damage, pickles put together by hand, archives that lie."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

import onnx
import torch
from hypothesis import strategies as st
from onnx import TensorProto, helper

NAME_ESCAPES = "\x1b[31m\u202e<b>|`"


def torch_bytes(content: object, *, legacy: bool = False) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def archive(pickled: bytes, storages: Mapping[str, bytes] = {}, *, method: int = zipfile.ZIP_STORED) -> bytes:
    """A PyTorch archive around a pickle and its storages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/byteorder", "little")
        file.writestr("a/version", "3\n")
        for key, data in storages.items():
            file.writestr(f"a/data/{key}", data)
    return buffer.getvalue()


def called(name: str, arguments: bytes) -> bytes:
    """The opcodes of `name(*arguments)`."""
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + b"(" + arguments + b"tR"


def text(value: str) -> bytes:
    """The opcode of a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """The opcode of an integer."""
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def tensor(size: tuple[int, ...], stride: tuple[int, ...], numel: int, offset: int = 0) -> bytes:
    """The opcodes of a float tensor on storage 0 of `numel` numbers."""
    identity = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + integer(numel) + b"tQ"
    shape, steps = (b"(" + b"".join(map(integer, numbers)) + b"t" for numbers in (size, stride))
    hooks = b"ccollections\nOrderedDict\n)R"
    return called("torch._utils._rebuild_tensor_v2", identity + integer(offset) + shape + steps + b"\x89" + hooks)


def dictionary(*items: bytes) -> bytes:
    """A whole pickle of a dictionary, keys and values in turn."""
    return b"\x80\x02}(" + b"".join(items) + b"u."


def convolution(**external: str) -> onnx.ModelProto:
    """A 1x1 convolution of one channel; `external` says where its weight is, if it is outside."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1, 1, 1, 1], [0.5])
    if external:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in external.items():
            weight.external_data.add(key=key, value=value)
    node = helper.make_node("Conv", ["input", "weight"], ["output"])
    shape: list[str | int | None] = ["n", 1, "h", "w"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output")]
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@st.composite
def damaged(draw: st.DrawFn, files: tuple[bytes, ...]) -> bytes:
    """One of `files`, changed in one to four places, or random bytes behind its beginning."""
    data = draw(st.sampled_from(files))
    if draw(st.integers(0, 9)) == 0:
        return data[: draw(st.integers(0, 64))] + draw(st.binary(max_size=300))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("flip", "byte", "number", "cut", "repeat", "splice", "remove")))
        length = draw(st.integers(1, 64))
        if kind == "flip":
            data = (
                data[:place]
                + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[place : place + 1])
                + data[place + 1 :]
            )
        elif kind == "byte":
            data = data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place + 1 :]
        elif kind == "number":  # a length, an offset, a size
            number = draw(st.sampled_from((0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)))
            data = data[:place] + struct.pack(draw(st.sampled_from("<>")) + "I", number) + data[place + 4 :]
        elif kind == "cut":
            data = data[:place]
        elif kind == "repeat":
            data = data[:place] + data[place : place + length] * draw(st.integers(2, 20)) + data[place + length :]
        elif kind == "splice":
            other = draw(st.sampled_from(files))
            at = draw(st.integers(0, max(len(other) - 1, 0)))
            data = data[:place] + other[at : at + length] + data[place + length :]
        else:
            data = data[:place] + data[place + length :]
    return data
