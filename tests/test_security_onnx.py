"""What a stranger's ONNX file can try: reach other files, exhaust memory and time, run what it brings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile import (
    claim,
    convolution,
)
from onnx import TensorProto, helper

from qcompress.errors import InputError
from qcompress.exporters import external_data
from qcompress.exporters.runtime import open_bytes, open_onnx


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the network lies: with its weights next to it, more in a folder below, and secrets above."""
    folder = tmp_path / "network"
    (folder / "below").mkdir(parents=True)
    for place in (folder / "w.bin", folder / "below" / "w.bin", tmp_path / "secret.bin"):
        place.write_bytes(np.array([0.5, 0.5], np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    return folder


def written(folder: Path, model: onnx.ModelProto) -> Path:
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    return folder / "a.onnx"


@pytest.mark.parametrize("location", ["w.bin", "below/w.bin", "./w.bin"])
def test_external_data_inside_the_folder_are_used(folder: Path, location: str) -> None:
    network = open_onnx(written(folder, convolution(location=location, offset="4", length="4")))
    np.testing.assert_array_equal(network(np.ones((1, 1, 2, 2), np.float32)), np.full((1, 1, 2, 2), 0.5))


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../secret.bin", "inside the folder"),
        ("below/../../secret.bin", "inside the folder"),
        ("below/../w.bin", "inside the folder"),
        ("/etc/passwd", "inside the folder"),
        ("C:w.bin", "inside the folder"),
        ("\\\\server\\w.bin", "inside the folder"),
        ("..\\secret.bin", "inside the folder"),
        ("", "inside the folder"),
        (".", "inside the folder"),
        ("w.bin\0", "inside the folder"),
        ("w\x1b.bin", "inside the folder"),
        ("link.bin", "is a link"),
        ("up/secret.bin", "is a link"),
        ("pipe", "not a regular file"),
        ("below", "not a regular file"),
        ("none.bin", "no such file"),
        ("x" * 5000, "cannot be read"),
        ("*/_ORT_MEM_ADDR_/*", "no such file"),
    ],
)
def test_external_data_outside_the_folder_are_refused(folder: Path, location: str, says: str) -> None:
    path = written(folder, convolution(location=location, offset="0", length="4"))
    for attempt in (external_data.check, open_onnx):
        with pytest.raises(InputError, match=says) as caught:
            attempt(path)
        assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("offset", "length"), [("-4", "4"), ("5", "4"), ("0", "9"), ("0", "1e3"), ("٣", "4"), ("9" * 40, "4"), ("0x0", "4")]
)
def test_external_data_beyond_the_file_are_refused(folder: Path, offset: str, length: str) -> None:
    with pytest.raises(InputError, match=r"of a file of 8|expected a number of bytes"):
        external_data.check(written(folder, convolution(location="w.bin", offset=offset, length=length)))


def test_external_data_are_found_wherever_they_hide(folder: Path) -> None:
    bad = convolution(location="/etc/passwd").graph.initializer[0]
    attribute = convolution()
    attribute.graph.node.append(helper.make_node("Constant", [], ["c"], value=bad))
    subgraph = convolution()
    branch = helper.make_graph([], "branch", [], [], [bad])
    subgraph.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
    function = convolution()
    node = helper.make_node("Constant", [], ["c"], value=bad)
    function.functions.append(helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 18)]))
    training = convolution()
    training.training_info.add().algorithm.initializer.append(bad)
    unmarked = convolution()
    unmarked.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    for model in (attribute, subgraph, function, training, unmarked):
        with pytest.raises(InputError, match="external data"):
            external_data.check(written(folder, model))


def test_a_model_in_memory_names_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="in memory"):
        open_bytes(convolution(location="w.bin", offset="0", length="4").SerializeToString(), "x.onnx")


def sparse_claim() -> onnx.ModelProto:
    model = convolution()
    values, indices = (
        helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], [0]),
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10**10]))
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (claim(dims=[10**10]), "claim 40,000,000,004 bytes"),
        (claim(dims=[2**60, 2**60]), "claim"),
        (claim(dims=[-1]), "negative"),
        (TensorProto(), "no network in it"),
        (sparse_claim(), "claim 40,000,000,016 bytes"),
    ],
)
def test_onnx_weights_that_claim_more_than_there_is(folder: Path, model: onnx.ModelProto, says: str) -> None:
    with pytest.raises(InputError, match=says):
        external_data.check(written(folder, model))


def test_text_that_is_none(folder: Path) -> None:
    """onnxruntime opens such a file, and its Python side stumbles over the names later."""
    data = convolution(location="w.bin", offset="0", length="4").SerializeToString()
    for name in (b"input", b"w.bin", b"graph", b"weight"):
        (folder / "a.onnx").write_bytes(data.replace(name, b"\xff" + name[1:]))
        with pytest.raises(InputError, match="is not text"):
            open_onnx(folder / "a.onnx")


def test_a_custom_operator_is_not_looked_for(folder: Path) -> None:
    model = convolution()
    model.graph.node[0].domain = "a.stranger"
    model.opset_import.append(helper.make_opsetid("a.stranger", 1))
    with pytest.raises(InputError, match="not a readable ONNX file"):
        open_onnx(written(folder, model))


def fixed(*shape: int) -> onnx.ModelProto:
    model = convolution()
    for size, dim in zip(shape, model.graph.input[0].type.tensor_type.shape.dim, strict=True):
        dim.dim_value = size
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def test_a_huge_fixed_input_is_refused_before_anything_is_made_for_it(folder: Path) -> None:
    assert open_onnx(written(folder, fixed(1, 1, 8, 8))).input_shape == (1, 1, 8, 8)
    for shape in ((2**31, 1, 8, 8), (1, 1, 2**20, 2**20)):
        with pytest.raises(InputError, match="expected at most"):
            open_onnx(written(folder, fixed(*shape)))


@pytest.mark.parametrize("stride", ["9" * 5000, "-1", "x\x1b[31m", "٣"])
def test_metadata_that_are_no_number(folder: Path, stride: str) -> None:
    model = convolution()
    helper.set_model_props(model, {"stride": stride})
    with pytest.raises(InputError, match="stride") as caught:
        open_onnx(written(folder, model))
    assert caught.value.message.isprintable()
