"""Files that a stranger might send: valid ones to damage, pickles put together by hand, archives that lie."""

from __future__ import annotations

import copy
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qcompress.errors import QCompressError

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


def claim(**fields: Any) -> onnx.ModelProto:
    """A convolution with another weight that is not there."""
    model = convolution()
    model.graph.initializer.append(TensorProto(name="claim", data_type=TensorProto.FLOAT, **fields))
    return model


def folding(size: int) -> onnx.ModelProto:
    """A network that adds the first of `size` zeros, which onnxruntime would make when it opens the file."""
    model = convolution()
    numbers = {"size": [size], "begin": [0], "end": [1]}
    model.graph.initializer.extend(helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in numbers.items())
    nodes = [("ConstantOfShape", ["size"], "zeros"), ("Slice", ["zeros", "begin", "end"], "zero")]
    model.graph.node[0].output[0] = "plain"
    model.graph.node.extend(helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes)
    model.graph.node.append(helper.make_node("Add", ["plain", "zero"], ["output"]))
    return model


def tiff(width: int, height: int, compression: int, strip: bytes, samples: int = 1) -> bytes:
    """A TIFF of one strip of 8-bit samples."""
    tags = [
        (256, width),
        (257, height),
        (258, 8),
        (259, compression),
        (262, 1),
        (273, 8),
        (277, samples),
        (278, height),
        (279, len(strip)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


def bmp(width: int, body: bytes) -> bytes:
    """A run-length encoded BMP of one row."""
    head = struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + struct.pack(
        "<IiiHHIIiiII", 40, width, 1, 1, 8, 1, len(body), 0, 0, 256, 0
    )
    return b"BM" + head + bytes(1024) + body


def flat_png(side: int) -> bytes:
    """A PNG of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes((side + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


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


VALUES: tuple[Any, ...] = (
    *(None, True, "", "a\x1b[31m\u202e", "x" * 3000, "../../etc/passwd", "torch.hub:load", [], {}, [[[[]]]]),
    *(0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, -0.0, 5e-324),
)
"""What does not belong where it is put."""


@st.composite
def retouched(draw: st.DrawFn, texts: tuple[bytes, ...]) -> bytes:
    """One of these JSON texts with one to three of its values replaced, removed, renamed or repeated: sound, but untrue."""
    value = json.loads(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("replace", "replace", "move", "remove", "rename", "repeat")))
        if kind == "replace":
            holder[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "move":
            other, name = draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(other[name])
        elif kind == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(("", "a.b", "x\x00", "\u202e", "__class__")))] = holder.pop(key)
        else:
            holder.insert(key, copy.deepcopy(holder[key]))
    return json.dumps(value).encode()


def _places(value: Any) -> Any:
    """(container, key) of everything in `value`, the containers of containers first."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def survives(load: Callable[[], object]) -> None:
    """`load` returns, or raises an error of ours whose message is one line of bounded length."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load()
    except QCompressError as error:
        assert "\n" not in error.message, error.message
        assert len(error.message) < 2000, error.message
        assert error.exit_code in (2, 3, 5)


def fuzzed(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on `examples` examples, a file of the test's own to write to."""
    ignored = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, suppress_health_check=ignored)
