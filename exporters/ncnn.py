"""ncnn, NAME.ncnn.param with its weights in NAME.ncnn.bin: converted from ONNX by pnnx, run by ncnn on the CPU.

ncnn takes one image at a time, of any size that the network takes.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn

from qcompress.errors import ExportError, InputError
from qcompress.exporters.base import Array, Artifact, Opened, Prepared, Weights, first_line, load_package
from qcompress.exporters.checked import Draft, on_cpu, publish
from qcompress.exporters.quiet import silent
from qcompress.exporters.runtime import STRIDE_KEY, open_onnx
from qcompress.exporters.strided import pooled
from qcompress.exporters.through_onnx import as_onnx

__all__ = ["convert_onnx", "export_ncnn", "open_ncnn"]

_OURS = "# qcompress "  # begins the last line of a .param file, which ncnn does not read
_FLOAT16 = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")
_SECONDS = 600  # that a conversion may take


def export_ncnn(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """As `Exporter`, for images one by one; height and width stay dynamic where they are so in ONNX."""
    load_package("ncnn", "ncnn")
    single = example[:1]
    with (
        tempfile.TemporaryDirectory() as folder,
        as_onnx(model, single, opset=opset, dynamic=dynamic, metadata=metadata) as source,
    ):
        file = Path(folder) / "model.ncnn.param"
        convert_onnx(source.artifact.path, file, tuple(single.shape), weights)
        draft = Draft(
            (file, _bin_of(file)), source.shapes(single, batch=False), False, ("one image at a time", *source.artifact.notes)
        )
        return publish(
            draft,
            on_cpu(model),
            path,
            format="ncnn",
            open=open_ncnn,
            rename=lambda to: (to, _bin_of(to)),
            weights=weights,
        )


def convert_onnx(source: Path, target: Path, example: tuple[int, ...], weights: Weights = "float32") -> None:
    """Have pnnx convert an ONNX file to `target` (.param) and its neighbour (.bin); `example` is an input's shape, N = 1."""
    pnnx = load_package("pnnx", "ncnn")
    network = open_onnx(source)
    stride = int(network.metadata.get(STRIDE_KEY, "1"))
    other = tuple(
        size if fixed is not None else size + 2 * stride for size, fixed in zip(example, network.input_shape, strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:  # pnnx writes seven files next to its input
        place = Path(folder) / "model.onnx"
        onnx.save(pooled(onnx.load(source)), place)
        command = [pnnx.EXEC_PATH, place.name, f"inputshape={_listed(example)}", f"fp16={int(weights == 'float16')}"]
        if other[2:] != example[2:]:
            command.append(f"inputshape2={_listed((1, *other[1:]))}")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
        written, numbers = place.with_suffix(".ncnn.param"), place.with_suffix(".ncnn.bin")
        if done.returncode or not (written.is_file() and numbers.is_file()):
            raise ExportError(f"pnnx cannot convert this network: {_complaint(done.stdout + done.stderr, done.returncode)}")
        ours = {**network.metadata, "input": (1, *network.input_shape[1:])}
        target.write_text(f"{written.read_text(encoding='utf-8').rstrip()}\n{_OURS}{json.dumps(ours)}\n", encoding="utf-8")
        _bin_of(target).write_bytes(numbers.read_bytes())


def open_ncnn(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
    """Opens a .param file and the .bin file beside it on the CPU.

    By itself ncnn stores what it computes in 16 bits where the processor can; `exact` asks for float32.
    """
    ncnn = load_package("ncnn", "ncnn")
    if not (path.is_file() and _bin_of(path).is_file()):
        raise InputError(f"{path}: no such file, or no {_bin_of(path).name} beside it", "name a .param file")
    network = ncnn.Net()
    network.opt.num_threads = threads
    network.opt.use_vulkan_compute = False
    for option in _FLOAT16 if exact else ():
        setattr(network.opt, option, False)
    try:
        with silent():
            failed = network.load_param(str(path)) or network.load_model(str(_bin_of(path)))
            names = network.input_names(), network.output_names()
    except Exception as error:
        raise InputError(f"{path.name}: ncnn cannot open it: {first_line(error)}", "is the file complete?") from error
    if failed or [len(each) for each in names] != [1, 1]:
        raise InputError(f"{path.name}: ncnn cannot open it", "are the .param and the .bin file complete, and of one export?")
    ((given,), (result,)) = names
    known = _metadata(path)

    def prepare(images: Array) -> Prepared:
        image = ncnn.Mat(images[0]).clone()  # a Mat over an array neither keeps it alive nor aligns it
        last: list[Any] = []

        def run() -> None:
            extractor = network.create_extractor()
            extractor.input(given, image)
            code, output = extractor.extract(result)
            if code:
                raise RuntimeError(f"ncnn's error code {code}")
            last[:] = [output]

        return Prepared(run, lambda: np.array(last[0], np.float32)[None])

    shape = known.pop("input", None) or (1, None, None, None)
    return Opened(path.name, tuple(shape), {key: str(value) for key, value in known.items()}, prepare)


def _bin_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".param") + ".bin")


def _listed(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]f32"


def _complaint(text: str, code: int) -> str:
    """What pnnx says last, or the operation that it does not know."""
    said = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "│", "┌", "└", "├"))]
    return said[-1][:200] if said else f"exit code {code}"


def _metadata(path: Path) -> dict[str, Any]:
    """What `convert_onnx` wrote into the last line."""
    last = path.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
    if not last.startswith(_OURS):
        return {}
    try:
        found = json.loads(last.removeprefix(_OURS))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
