"""What a stranger's network can claim: functions in functions, layers by number, sizes that a few bytes do not explain."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hostile import convolution, torch_bytes
from onnx import helper
from torch import nn

from qcompress import checkpoints, live, loading, offline, restoration, slim_folder, timm_models
from qcompress.bounded_building import bounded
from qcompress.data import sources
from qcompress.errors import ArchitectureError, CheckpointError, DataError, InputError, PlanError
from qcompress.exporters import expansion
from qcompress.exporters.runtime import open_bytes
from qcompress.plans import Plan, PlanCut, PlanGroup, Source
from qcompress.weights import read_weights

SHA = "0" * 64

# ONNX: functions


def functions(depth: int, width: int, *, recursive: bool = False) -> onnx.ModelProto:
    """A convolution, then the last of `depth` functions, each of which calls the one before it `width` times."""
    model = convolution()
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model.opset_import.append(imports[1])
    for level in range(depth):
        inner, domain = ("Relu", "") if level == 0 and not recursive else (f"f{max(level - 1, 0)}", "own")
        names = ["x", *(f"t{number}" for number in range(width - 1)), "y"]
        nodes = [helper.make_node(inner, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]
        model.functions.append(helper.make_function("own", f"f{level}", ["x"], ["y"], nodes, imports))
    model.graph.node[0].output[0] = "plain"
    model.graph.node.append(helper.make_node(f"f{depth - 1}", ["plain"], ["output"], domain="own"))
    return model


def test_functions_of_an_ordinary_size_pass() -> None:
    network = open_bytes(functions(3, 5).SerializeToString(), "a.onnx")
    np.testing.assert_array_equal(network(np.ones((1, 1, 2, 2), np.float32)), np.full((1, 1, 2, 2), 0.5))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (functions(6, 10), "make more than"),
        (functions(60, 2), "make more than"),
        (functions(1, 2, recursive=True), "calls itself"),
    ],
)
def test_functions_that_grow_without_end(model: onnx.ModelProto, says: str) -> None:
    """A file of 1,331 bytes keeps onnxruntime busy for minutes."""
    with pytest.raises(InputError, match=says):
        open_bytes(model.SerializeToString(), "a.onnx")


def test_functions_called_in_branches_count() -> None:
    model = functions(5, 10)
    call = model.graph.node.pop()
    branch = helper.make_graph([call], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["output"], then_branch=branch, else_branch=branch))
    with pytest.raises(InputError, match="make more than"):
        expansion.check_functions(model, "a.onnx")
    model.graph.node.pop()
    expansion.check_functions(model, "a.onnx")  # functions that nobody calls


def test_constants_of_another_size_than_they_say(tmp_path: Path) -> None:
    """onnxruntime passes over what nothing depends on."""
    pytest.importorskip("onnx2torch", exc_type=ImportError)
    model = convolution()
    constant = helper.make_tensor("c", onnx.TensorProto.INT64, [1], [1])
    constant.dims[0] = 0
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=constant))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArchitectureError, match=r"cannot be said in opset 17|cannot convert"):
        loading.load(tmp_path / "a.onnx")


# Networks built from what a file says


def test_what_is_built_is_bounded_by_what_is_held() -> None:
    with bounded("small", 0):
        nn.Linear(1000, 1000)
    with bounded("large", 2**20):
        nn.Linear(6000, 6000)
    for build in (
        lambda: nn.Linear(6000, 6000),
        lambda: torch.zeros(10**12),
        lambda: torch.ones(3).repeat(1).new_full((10**6, 10**6), 1.0),
        lambda: torch.arange(10**11),
        lambda: [nn.Conv2d(512, 512, 1) for _ in range(10**6)],
        lambda: [torch.ones(1_000_000).clone() for _ in range(10**6)],
    ):
        with pytest.raises(ArchitectureError, match="a file of 0 numbers describes"), bounded("large", 0):
            build()


@pytest.mark.slow
def test_what_is_built_is_bounded_in_time() -> None:
    with pytest.raises(ArchitectureError, match="too deep"), bounded("deep", 0):
        for _ in range(10**9):
            nn.BatchNorm2d(1)


def test_a_refusal_that_is_caught_inside_is_still_one() -> None:
    with pytest.raises(ArchitectureError, match="describes"), bounded("large", 0), contextlib.suppress(Exception):
        torch.zeros(10**12)
    with pytest.raises(ZeroDivisionError), bounded("small", 0):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("key", ["body.999999999.weight", "body.9999999999999999999999.bias", "body.4000.bias"])
def test_layers_are_not_counted_by_a_number_in_a_name(tmp_path: Path, key: str) -> None:
    if restoration.importable() is not None:
        pytest.skip("spandrel is not installed")
    arch = importlib.import_module("spandrel.architectures.Compact.__arch.SRVGG")
    state = arch.SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=4, num_conv=2, upscale=2).state_dict()
    (tmp_path / "a.pth").write_bytes(torch_bytes(state | {key: torch.zeros(1)}))
    with pytest.raises(ArchitectureError, match="counts more than"):
        checkpoints.load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 10**9},
        {"in_chans": 10**7},
        {"num_classes": 10**40},
        {"a\x1b": 1},
        pytest.param({"layers": [10**8] * 4}, marks=pytest.mark.slow),
    ],
)
def test_a_plan_cannot_have_timm_build_a_huge_network(tmp_path: Path, arguments: dict[str, Any]) -> None:
    try:
        importlib.import_module("timm")
    except ImportError:
        pytest.skip("timm is not installed")
    with pytest.raises(ArchitectureError):
        timm_models.build("timm:resnet18", arguments, held=1)
    plan = Plan(
        tool="qcompress",
        checkpoint=Source(file="a.pt", sha256=SHA, architecture="timm:resnet18", arguments=arguments),
        groups={"layer1": PlanGroup(size=64, pruned=())},
        cuts={"conv1": PlanCut(kept_out=(0,), kept_in=None)},
        example_shape=(1, 3, 64, 64),
        budget="filters",
        sparsity=0.0,
        objective="hybrid",
        backend="neal",
        seed=0,
    )
    slim_folder.save(tmp_path, plan, nn.Conv2d(1, 1, 1))
    with pytest.raises(ArchitectureError):
        slim_folder.load(tmp_path)


# Exported programs


def program(entries: dict[str, Any], members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/archive_format", "pt2")
        archive.writestr("a/data/weights/model_weights_config.json", json.dumps({"config": entries}))
        for name, data in members.items():
            archive.writestr(f"a/data/weights/{name}", data)
    return buffer.getvalue()


def entry(member: str, *sizes: int, strides: tuple[int, ...] | None = None) -> dict[str, Any]:
    numbers = {"sizes": sizes, "strides": strides or (1,) * len(sizes)}
    meta = {key: [{"as_int": number} for number in values] for key, values in numbers.items()}
    return {
        "path_name": member,
        "use_pickle": False,
        "tensor_meta": {"dtype": 7, "storage_offset": {"as_int": 0}, **meta},
    }


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (program({"w": entry("0", 10**9)}, {"0": b""}), "without data"),
        (program({"w": entry("0", 10**9, strides=(0,))}, {"0": bytes(4)}), "has no data of that size"),
        (program({f"w{n}": entry("0", 10**6) for n in range(3000)}, {"0": bytes(4 * 10**6)}), "bytes"),
        (program({"w": entry("../../../etc/passwd", 1)}, {"0": bytes(4)}), "cannot be read"),
        (program({"w": entry("0", 3)}, {"0": b"12345"}), "cannot be read"),
        (program({"w\x1b[31m": entry("0", 1)}, {"0": bytes(4)}), "holds a parameter called"),
        (program({"w": entry("0", *(1,) * 3000)}, {"0": bytes(4)}), "3,000 axes"),
    ],
)
def test_exported_programs_that_lie(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "a.pt2").write_bytes(data)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_weights(tmp_path / "a.pt2")
    assert caught.value.message.isprintable()


def test_a_damaged_member_of_an_exported_program(tmp_path: Path) -> None:
    """zipfile notices the checksum only when it reads."""
    data = program({"w": entry("0", 1)}, {"0": b"abcd"})
    (tmp_path / "a.pt2").write_bytes(data.replace(b"abcd", b"abce"))
    with pytest.raises(CheckpointError, match="BadZipFile"):
        read_weights(tmp_path / "a.pt2")


# Arrays


def saved(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


class Proof:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def test_no_pickle_in_an_array_is_read(tmp_path: Path) -> None:
    hidden = np.array([Proof(tmp_path / "proof")], object)
    for arrays in ({"x": hidden, "y": hidden}, {"x": np.zeros((1, 4, 4, 3), np.uint8), "y": np.zeros(1, int), "z": hidden}):
        with pytest.raises(DataError, match=r"no plain numbers|Object arrays"):
            sources.recognise(saved(tmp_path / "a.npz", **arrays))
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("shape", "kind"), [((10**9, 0, 0, 3), "u1"), ((10**9, 4, 4, 0), "f4"), ((10**9, 1, 1), "V0"), ((10**9, 1, 1), "S0")]
)
def test_many_images_of_nothing(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in "xy":
            header = str({"descr": f"|{kind}" if kind != "f4" else "<f4", "fortran_order": False, "shape": shape}).encode()
            header = header.ljust(118) + b"\n"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError):
        sources.recognise(tmp_path / "a.npz")


def test_many_images_of_one_pixel(tmp_path: Path) -> None:
    """Each takes a byte, a hundredth of one compressed, and an entry of 500 bytes in memory."""
    path = saved(tmp_path / "a.npz", x=RNG.integers(0, 2, (200_000, 1, 1, 1), np.uint8), y=np.zeros(200_000, np.int8))
    with pytest.raises(DataError, match="200,000 images in"):
        sources.recognise(path)


RNG = np.random.default_rng(0)


def test_numbers_too_large_for_float32_are_infinite(tmp_path: Path) -> None:
    images = np.full((3, 1, 4, 4), 1e300)
    found = sources.recognise(saved(tmp_path / "a.npz", x=images, y=images))
    with pytest.raises(DataError, match="NaN or infinity"):
        found.items[0].read()
    with pytest.raises(DataError, match="finite floats"):
        live.prune(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 8, 8), data=(images, images))


@pytest.mark.parametrize("name", ["a.npz", "a.onnx", "a.pt2", "classes.txt"])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises((DataError, CheckpointError)):
        (sources.recognise if name == "a.npz" else checkpoints.load)(tmp_path / name)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError):
        sources.recognise(tmp_path, classes=True)


# Problems


def test_a_small_problem_cannot_claim_large_matrices() -> None:
    facts: dict[str, Any] = {
        "tool": "qcompress",
        "checkpoint": Source(file="a.pt", sha256=SHA, architecture="dncnn", arguments={}),
        "bqm": SHA,
        "layers": (),
        "ask": offline.Ask(budget="filters", sparsity=0.5, align=1),
        "provenance": offline.Provenance(scores=SHA, images=SHA, objective="hybrid", metric="psnr", seed=0),
    }
    groups = (offline.GroupRecord(name="g", size=10_000, floor=1),)
    with pytest.raises(ValueError, match="too large"):
        offline.ProblemFile(groups=groups, **facts)


def test_a_pipe_in_place_of_a_problem(tmp_path: Path) -> None:
    for name in ("p.bqm", "p.json"):
        os.mkfifo(tmp_path / name)
    for read in (offline.read_problem, offline.read_selection):
        with pytest.raises(PlanError, match="is not a file"):
            read(tmp_path / "p.bqm")
