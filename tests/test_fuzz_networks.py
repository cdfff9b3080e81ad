"""Damaged and untrue files of the newer kinds: slim folders, arrays, exported programs, ONNX to prune, problems, selections."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from hostile import damaged, fuzzed, retouched, survives
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qcompress import kept_scores, loading, offline, plans, slim_folder
from qcompress.architectures.dncnn import build_dncnn
from qcompress.checkpoints import load
from qcompress.cli.options import parse_arch_args
from qcompress.data import sources
from qcompress.errors import QCompressError
from qcompress.plans import Plan, PlanCut, PlanGroup, Source
from qcompress.problem import Problem
from qcompress.scores import Scores
from qcompress.selection import UnitSpace
from qcompress.settings import SearchOptions
from qcompress.solving import checked, found_of, solve
from qcompress.weights import read_weights

pytestmark = pytest.mark.timeout(120)

RNG = np.random.default_rng(5)
SHA = "0" * 64
ARGUMENTS: dict[str, Any] = {"channels": 1, "depth": 3, "width": 3, "batchnorm": False}


# Slim folders


def weights(channels: int) -> dict[str, torch.Tensor]:
    """Of a DnCNN of three layers whose first makes `channels` channels."""
    model = build_dncnn(**ARGUMENTS)
    state = {name: torch.full_like(tensor, 0.1) for name, tensor in model.state_dict().items()}
    state["model.0.weight"], state["model.0.bias"] = state["model.0.weight"][:channels], state["model.0.bias"][:channels]
    state["model.2.weight"] = state["model.2.weight"][:, :channels].contiguous()
    return state


PLAN = Plan(
    tool="qcompress",
    checkpoint=Source(file="a.pt", sha256=SHA, architecture="dncnn", arguments=dict(ARGUMENTS)),
    groups={"model.0": PlanGroup(size=3, pruned=(1,))},
    cuts={"model.0": PlanCut(kept_out=(0, 2), kept_in=None), "model.2": PlanCut(kept_out=None, kept_in=(0, 2))},
    example_shape=(1, 1, 32, 32),
    budget="filters",
    sparsity=0.3,
    objective="hybrid",
    backend="neal",
    seed=0,
)


def load_slim(folder: Path, plan: bytes | None = None, data: bytes | None = None) -> None:
    """Weights that were written with the plan, if it can be read: what is in it is put to the test, not its hash."""
    (folder / "plan.json").write_bytes(PLAN.to_json().encode() if plan is None else plan)
    sha256 = plans.read(folder / "plan.json").sha256
    held = safetensors.torch.save(weights(2), {"plan_sha256": sha256}) if data is None else data
    (folder / "model.safetensors").write_bytes(held)
    slim_folder.load(folder)


# Arrays


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


PIXELS = RNG.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
ARRAYS = (
    npz(x=PIXELS, y=PIXELS, scene=np.array(["a", "b", "c", "d"])),
    npz(compressed=True, noisy=PIXELS / 255, clean=PIXELS.astype(np.float32)),
    npz(x=PIXELS, y=np.arange(4)),
    npz(x=PIXELS, y=PIXELS[..., 0].astype(np.int64)),
)


def read_arrays(path: Path) -> None:
    for item in sources.recognise(path).items[:4]:
        item.read()


# Exported programs


def program(config: bytes) -> bytes:
    """A .pt2 archive as torch writes it, around this table of weights."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/archive_format", "pt2")
        archive.writestr("a/data/weights/model_weights_config.json", config)
        for number, tensor in enumerate(weights(3).values()):
            archive.writestr(f"a/data/weights/weight_{number}", tensor.numpy().tobytes())
    return buffer.getvalue()


def table() -> bytes:
    """What says where the weights of `program` are."""
    entries = {
        name: {
            "path_name": f"weight_{number}",
            "is_param": True,
            "use_pickle": False,
            "tensor_meta": {
                "dtype": 7,
                "sizes": [{"as_int": size} for size in tensor.shape],
                "strides": [{"as_int": stride} for stride in tensor.contiguous().stride()],
                "storage_offset": {"as_int": 0},
            },
        }
        for number, (name, tensor) in enumerate(weights(3).items())
    }
    return json.dumps({"config": entries}).encode()


def read_program(path: Path) -> None:
    read_weights(path)


# ONNX to prune


def network(opset: int) -> bytes:
    """Convolution, normalisation, mean, reshape and resize, as torch says them in `opset`."""
    inputs: dict[str, Any] = {
        "a.weight": RNG.random((4, 3, 3, 3), np.float32),
        "n": np.ones(4, np.float32),
        "axes": np.array([1], np.int64),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "shape": np.array([0, 1, 16, 16], np.int64),
    }
    axes: dict[str, Any] = {"axes": [1]} if opset < 18 else {}
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "n", "n", "n", "n"], ["b"]),
        helper.make_node("Resize", ["b", "", "scales"], ["u"], mode="nearest"),
        helper.make_node("ReduceMean", ["u"] if axes else ["u", "axes"], ["m"], keepdims=1, **axes),
        helper.make_node("Reshape", ["m", "shape"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
        for name, shape in (("x", (3, 8, 8)), ("y", (1, 16, 16)))
    ]
    held = [numpy_helper.from_array(array, name) for name, array in inputs.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def prune_onnx(path: Path) -> None:
    loading.load(path)


# Problems and selections

SPACE = UnitSpace(("g0", "g1"), (4, 3), (1, 1))


def couplings(size: int) -> Any:
    square = np.triu(RNG.random((size, size)), 1)
    return square + square.T


ASKED = Problem(SPACE, RNG.random(7), (couplings(4), couplings(3)))
LAYERS = tuple(
    offline.LayerRecord(
        kind="conv",
        inputs=inputs,
        outputs=outputs,
        kernel=9,
        positions=64,
        bias=True,
        divisions=1,
        less_in=less_in,
        less_out=less_out,
    )
    for inputs, outputs, less_in, less_out in ((3, 4, {}, {"g0": 1}), (4, 3, {"g0": 1}, {"g1": 1}), (3, 3, {"g1": 1}, {}))
)


def write_problem(folder: Path, budget: str = "filters") -> Path:
    facts: dict[str, Any] = {
        "tool": "qcompress",
        "checkpoint": Source(file="a.pt", sha256=SHA, architecture="dncnn", arguments={}),
        "layers": LAYERS,
        "ask": offline.Ask(budget=budget, sparsity=0.4, align=1),
        "provenance": offline.Provenance(scores=SHA, images=SHA, objective="hybrid", metric="psnr", seed=0),
    }
    offline.write_problem(ASKED, folder / "p.bqm", **facts)
    return folder / "p.bqm"


def solve_problem(folder: Path, bqm: bytes | None = None, record: bytes | None = None) -> None:
    """With a hash in the JSON that is true of the other file."""
    path = write_problem(folder)
    if record is not None:
        path.with_suffix(".json").write_bytes(record)
    if bqm is not None:
        path.write_bytes(bqm)
        known = json.loads(path.with_suffix(".json").read_bytes())
        path.with_suffix(".json").write_text(json.dumps(known | {"bqm": hashlib.sha256(bqm).hexdigest()}))
    solve(path, SearchOptions(backend="tabu", reads=2), out=folder / "s.json")


def take_selection(folder: Path, data: bytes) -> None:
    (folder / "s.json").write_bytes(data)
    known = offline.read_selection(folder / "s.json")
    checked(found_of(known, SPACE, SHA), *offline.read_problem(write_problem(folder)).record.asked)


# The runs: name -> (the file's ending, what loads it, sound files, how they are spoilt)


def files(folder: Path) -> dict[str, tuple[Callable[[bytes], object], Any]]:
    """Name -> what takes the bytes, and the strategy that makes them."""

    def with_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def take(data: bytes) -> object:
            (folder / name).write_bytes(data)
            return read(folder / name)

        return take

    plan, state = PLAN.to_json().encode(), safetensors.torch.save(weights(2), {"plan_sha256": PLAN.sha256})
    path = write_problem(folder)
    bqm, record = path.read_bytes(), path.with_suffix(".json").read_bytes()
    write_problem(folder, "macs")
    records = (record, path.with_suffix(".json").read_bytes())
    write_problem(folder)
    solve(path, SearchOptions(backend="tabu", reads=2), out=folder / "s.json")
    selection = (folder / "s.json").read_bytes()
    torch.save(weights(3), folder / "net.pt")
    scores = Scores(SPACE, np.ones(7), np.ones(7), np.ones(7), (np.eye(4), np.eye(3)))
    kept_scores.keep(scores, "key", folder)
    kept = (folder / kept_scores.FILE).read_bytes()
    return {
        "slim plan": (lambda data: load_slim(folder, plan=data), damaged((plan,)) | retouched((plan,))),
        "slim weights": (lambda data: load_slim(folder, data=data), damaged((state,))),
        "npz": (with_file("a.npz", read_arrays), damaged(ARRAYS)),
        "pt2": (with_file("a.pt2", read_program), damaged((program(table()),)) | retouched((table(),)).map(program)),
        "onnx": (with_file("a.onnx", prune_onnx), damaged((network(17), network(18)))),
        "problem.bqm": (lambda data: solve_problem(folder, bqm=data), damaged((bqm,))),
        "problem.json": (lambda data: solve_problem(folder, record=data), damaged(records) | retouched(records)),
        "selection.json": (lambda data: take_selection(folder, data), damaged((selection,)) | retouched((selection,))),
        "scores": (with_file(kept_scores.FILE, lambda file: kept_scores.recall(SPACE, "key", file.parent)), damaged((kept,))),
        "arch-args": (
            lambda data: load(
                folder / "net.pt", arch="dncnn", arch_args=parse_arch_args(data.decode(errors="surrogateescape"))
            ),
            retouched((json.dumps(ARGUMENTS).encode(),)) | st.binary(max_size=40) | st.text(max_size=20).map(str.encode),
        ),
    }


NAMES = (
    *(
        "slim plan",
        "slim weights",
        "npz",
        "pt2",
        "onnx",
        "problem.bqm",
        "problem.json",
        "selection.json",
        "scores",
        "arch-args",
    ),
)


def run(folder: Path, name: str, examples: int) -> None:
    if name == "onnx":
        try:
            importlib.import_module("onnx2torch")
        except ImportError:
            pytest.skip("onnx2torch is not installed")
    take, spoilt = files(folder)[name]

    @fuzzed(examples)
    @given(data=spoilt)
    def attack(data: bytes) -> None:
        survives(lambda: take(data))

    attack()


def test_what_is_to_be_spoilt_is_sound(tmp_path: Path) -> None:
    load_slim(tmp_path)
    for data in ARRAYS:
        (tmp_path / "a.npz").write_bytes(data)
        read_arrays(tmp_path / "a.npz")
    (tmp_path / "a.pt2").write_bytes(program(table()))
    content = read_weights(tmp_path / "a.pt2").content
    assert isinstance(content, dict)
    assert {name: tensor.tolist() for name, tensor in content.items()} == {n: t.tolist() for n, t in weights(3).items()}
    files(tmp_path)
    take_selection(tmp_path, (tmp_path / "s.json").read_bytes())
    assert kept_scores.recall(SPACE, "key", tmp_path) is not None


@pytest.mark.parametrize("opset", [17, 18])
def test_the_network_to_be_spoilt_is_sound(tmp_path: Path, opset: int) -> None:
    pytest.importorskip("onnx2torch", exc_type=ImportError)
    (tmp_path / "a.onnx").write_bytes(network(opset))
    try:
        prune_onnx(tmp_path / "a.onnx")
    except QCompressError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_spoilt_files(tmp_path: Path, name: str) -> None:
    run(tmp_path, name, 60 if name.startswith("problem") else 150)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_spoilt_files_at_length(tmp_path: Path, name: str) -> None:
    run(tmp_path, name, 1500)
