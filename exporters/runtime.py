"""onnxruntime behind one door: a file opened with fixed threads, its telemetry off, its errors ours and one line long."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import InputError
from qcompress.exporters import external_data
from qcompress.exporters.base import first_line, shape_text

__all__ = [
    "STRIDE_KEY",
    "STRIDES",
    "Network",
    "find_stride",
    "first_line",
    "import_onnxruntime",
    "open_bytes",
    "open_onnx",
    "open_ort",
    "open_session",
    "shape_text",
]

Array = NDArray[np.float32]
STRIDES = (1, 2, 4, 8, 16, 32, 64)
STRIDE_KEY = "stride"  # in the model's metadata: height and width must be multiples of it
_MOST_INPUT = 2**27  # values that an input of fixed size may have: 512 MiB
_MOST_FOLDED = 2**24  # bytes that one constant may grow to when a network is opened, or as many as the file has, widened
_WIDENED = 8  # times as large as in the file: int4 weights that are computed with in float32
_NUMBERS = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)"})
_SILENT = 4  # of onnxruntime's log levels: fatal only; what fails reaches us as an exception


@dataclass(frozen=True, eq=False)
class Network:
    """An ONNX file ready to run: one float32 input, one output. `input_shape` holds None where a size may vary."""

    name: str
    session: Any
    input_name: str
    output_name: str
    input_shape: tuple[int | None, ...]
    metadata: Mapping[str, str]

    def __call__(self, images: Array) -> Array:
        """The output for one batch. Raises InputError where the network refuses the shape."""
        try:
            (output,) = self.session.run([self.output_name], {self.input_name: np.ascontiguousarray(images, np.float32)})
        except Exception as error:  # onnxruntime's exceptions have no common base but this one
            raise InputError(
                f"{self.name}: the network cannot run on an input of shape {images.shape}: {first_line(error)}",
                f"its input is {shape_text(self.input_shape)}",
            ) from error
        result: Array = np.asarray(output)
        return result

    def bind(self, images: Array) -> Callable[[], object]:
        """One run on `images` with input and output already in place, so that nothing is copied or allocated.

        Raises InputError as a call does.
        """
        output = self(images)  # refuses a wrong shape, and says how large the output is
        place = import_onnxruntime().OrtValue.ortvalue_from_numpy
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(self.input_name, place(np.ascontiguousarray(images, np.float32)))
        binding.bind_ortvalue_output(self.output_name, place(output))

        def run() -> object:
            return self.session.run_with_iobinding(binding)

        return run


def open_onnx(path: Path, threads: int = 1, *, exact: bool = False, literal: bool = False) -> Network:
    """Opens an ONNX file on the CPU, if it needs nothing outside its folder: see `external_data.check`.

    With `literal` the graph is run as it is written, every QuantizeLinear and DequantizeLinear by itself, in float32: slow.
    onnxruntime is `exact` anyway. Raises InputError where the file is missing, damaged, hostile, or not an image network.
    """
    del exact
    data, external = external_data.read(path)  # what was checked is what is opened, unless other files belong to it
    source = str(path) if external else data
    return _checked(_session(source, path.name, threads, len(data), literal), path.name)


def open_ort(path: Path, threads: int = 1, *, exact: bool = False) -> Network:
    """Opens a file in onnxruntime's own format, which it checks itself: as safe as onnxruntime's reader is.

    Raises InputError as `open_onnx`.
    """
    del exact
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "name an .ort file") from error
    return _checked(_session(data, path.name, threads, len(data), False, "ORT"), path.name)


def open_bytes(data: bytes, name: str, threads: int = 1) -> Network:
    """Opens an ONNX model that is in memory; `name` stands for it in errors."""
    external_data.check_bytes(data, name)
    return _checked(open_session(data, name, threads), name)


def open_session(data: bytes, name: str, threads: int = 1) -> Any:
    """A session of onnxruntime for a model in memory that comes from ourselves, whatever its inputs and outputs are."""
    return _session(data, name, threads, len(data), literal=False)


def find_stride(accepts: Callable[[int, int], bool], height: int, width: int) -> int | None:
    """Smallest s of STRIDES such that height + s by width + s is accepted; None where no other size is.

    `height` and `width` are accepted themselves, so they are multiples of the network's stride, and height + s is one only if
    s is.
    """
    return next((stride for stride in STRIDES if accepts(height + stride, width + stride)), None)


def import_onnxruntime() -> Any:
    """The module, with its telemetry off: the Linux wheel writes below ~/.cache otherwise."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    return onnxruntime


def _session(source: str | bytes, name: str, threads: int, size_bytes: int, literal: bool, format: str = "ONNX") -> Any:
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.load_model_format", format)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if literal:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    folded = str(max(_MOST_FOLDED, _WIDENED * size_bytes))
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", folded)
    try:
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # as above
        raise InputError(f"{name}: not a readable {format} file: {first_line(error)}", "is the file complete?") from error


def _checked(session: Any, name: str) -> Network:
    """The network of a session that has one float32 input, of a size that fits into memory, and one output."""
    try:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        metadata = dict(session.get_modelmeta().custom_metadata_map)
    except (UnicodeError, RuntimeError) as error:
        raise InputError(f"{name}: not a readable ONNX file: {first_line(error)}", "is the file complete?") from error
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(f"{name}: {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
    if inputs[0].type != "tensor(float)":
        raise InputError(f"{name}: the input is {inputs[0].type}, expected tensor(float)")
    if outputs[0].type not in _NUMBERS:
        raise InputError(f"{name}: the output is {outputs[0].type}, expected tensor(float)")
    shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape or ())
    fixed = [size for size in shape if size is not None]
    if any(size < 1 for size in fixed) or math.prod(fixed) > _MOST_INPUT:
        raise InputError(f"{name}: its input is {shape_text(shape)}, expected at most {_MOST_INPUT:,} values, and no side of 0")
    stride = metadata.get(STRIDE_KEY, "1")
    if not (stride.isascii() and stride.isdecimal() and len(stride) < 6):
        raise InputError(f"{name}: its metadata give the stride {stride[:40]!a}, expected a small number", "export it again")
    return Network(name, session, inputs[0].name, outputs[0].name, shape, metadata)
