"""Layers at chosen widths in one file: what is written is what was asked, takes what was said, and computes what it says."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from zoo import architecture

from qcompress import seeds
from qcompress.errors import DataError, ExportError, InputError, UsageError
from qcompress.exporters import export_onnx, qdq
from qcompress.exporters.calibrating import METHODS, measure_ranges
from qcompress.exporters.ort_int8 import quantise_whole
from qcompress.exporters.qdq_layers import find_layers
from qcompress.exporters.runtime import open_onnx
from qcompress.exporters.simulation import parity_db
from qcompress.widths import WIDTHS

Array = NDArray[np.float32]
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8, "int4": TensorProto.INT4}
CROPS: Array = seeds.stream(0, "crops").random((3, 3, 16, 16), np.float32)


class Restoring(nn.Module):
    """A chain as image networks have it: depthwise, concatenation, a skip, a layer used twice, the input added at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.body = nn.Conv2d(16, 12, 3, padding=1)
        self.twice = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.tail = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.head(x).relu()
        b = torch.cat([a, self.depth(a).relu()], 1)
        c = self.body(b).relu()
        d = c + self.twice(self.twice(c).relu())
        out: Tensor = x + self.tail(d)
        return out


class Everything(nn.Module):
    """Every kind of layer: transposed convolutions with and without groups, linear layers on vectors and on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.one = nn.ConvTranspose2d(5, 1, 1)
        self.groups = nn.ConvTranspose2d(6, 9, 2, stride=2, groups=3)
        self.sequence, self.bare = nn.Linear(10, 7), nn.Linear(7, 5, bias=False)
        self.vector, self.last = nn.Linear(5, 4), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.nn.functional.max_pool2d(x, 2)).relu()
        z = torch.cat([self.one(self.up(y)), self.groups(y)], 1)
        s = self.bare(self.sequence(z.flatten(2).transpose(1, 2)).relu())
        out: Tensor = self.last(self.vector(s.mean(1)).relu())
        return out


def exported(model: nn.Module, folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.eval().parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 10
        parameter.data.normal_(0, 1.4 * fan**-0.5, generator=generator)
    return export_onnx(model, torch.from_numpy(CROPS[:1]), folder / "float.onnx", metadata={"tool": "qcompress 0"}).path


@pytest.fixture(scope="module")
def restoring(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    model = Restoring()
    return model, exported(model, tmp_path_factory.mktemp("restoring"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    model = Everything()
    return model, exported(model, tmp_path_factory.mktemp("everything"))


def layers_of(path: Path) -> list[str]:
    return list(find_layers(onnx.load(path).graph))


def at(width: str, path: Path) -> dict[str, str]:
    return dict.fromkeys(layers_of(path), width)


def weights_in(path: Path) -> dict[str, onnx.TensorProto]:
    return {tensor.name.removesuffix(".weight"): tensor for tensor in onnx.load(path).graph.initializer}


def operations(path: Path, folder: Path) -> Counter[str]:
    """What onnxruntime executes, once it has opened the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def difference(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("network", ["restoring", "everything"])
def test_the_file_is_what_was_asked_and_takes_what_was_said(
    network: str, width: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    _, source = request.getfixturevalue(network)
    widths = at(width, source)
    artifact = qdq.quantise(source, tmp_path / "q.onnx", widths, CROPS, metadata={"extra": "1"})
    model = onnx.load(artifact.path)
    assert {name: weights_in(artifact.path)[name].data_type for name in widths} == dict.fromkeys(widths, KINDS[width])
    assert artifact.size_bytes == artifact.path.stat().st_size == qdq.size_of(source, widths, metadata={"extra": "1"})
    assert list(tmp_path.iterdir()) == [artifact.path]
    before = {entry.key: entry.value for entry in onnx.load(source).metadata_props}
    assert {"tool", "stride"} <= set(before)
    assert {entry.key: entry.value for entry in model.metadata_props} == before | {"extra": "1"}
    assert artifact.opset == model.opset_import[0].version == (21 if width == "int4" else 18)
    assert not any(node.doc_string or node.name or node.metadata_props for node in model.graph.node)
    assert {tensor.name for tensor in model.graph.initializer} <= {name for node in model.graph.node for name in node.input}
    assert parity_db(artifact.path, CROPS) > (45 if width == "int8" else 100)


@pytest.mark.parametrize(("width", "within"), [("float32", 1e-6), ("float16", 2e-3), ("int8", 0.05), ("int4", 0.5)])
def test_it_computes_what_the_network_computes(
    everything: tuple[nn.Module, Path], width: str, within: float, tmp_path: Path
) -> None:
    _, source = everything
    path = qdq.quantise(source, tmp_path / "q.onnx", at(width, source), CROPS).path
    assert difference(open_onnx(path)(CROPS), open_onnx(source)(CROPS)) < within


@pytest.mark.parametrize("width", ["int8", "int4"])
def test_given_scales_come_out_exactly_and_the_weights_are_the_nearest_on_their_grids(
    everything: tuple[nn.Module, Path], width: str, tmp_path: Path
) -> None:
    """Held against torch with rounded weights. With int8 activations are rounded besides, so int4 is compared closely."""
    model, source = everything
    rounded, scales, most = copy.deepcopy(model), dict[str, Array](), 127 if width == "int8" else 7
    for name, module in rounded.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            apart, shape = by_channel(name, weight.detach().numpy())
            scales[name] = (np.abs(apart).max(1) / most * 1.01).astype(np.float32)
            grid = np.rint(apart / scales[name][:, None]) * scales[name][:, None]
            module.weight = nn.Parameter(torch.from_numpy(from_channel(name, grid, shape)))
    path = qdq.quantise(source, tmp_path / "q.onnx", at(width, source), CROPS, scales=scales).path
    stored = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    for name, expected in scales.items():
        assert any(np.array_equal(value.ravel(), expected) for value in stored if value.size == expected.size), name
    with torch.no_grad():
        expected = rounded(torch.from_numpy(CROPS)).numpy()
    assert difference(open_onnx(path)(CROPS), expected) < (1e-5 if width == "int4" else 0.03)


def by_channel(name: str, weight: Array) -> tuple[Array, tuple[int, ...]]:
    """(out, the rest), and the shape on the way there."""
    if name == "groups":  # (3 groups of 2, 3, 2, 2): channel (group, j)
        apart = weight.reshape(3, 2, 3, 2, 2).transpose(0, 2, 1, 3, 4)
    else:
        apart = weight.swapaxes(0, 1) if name in ("up", "one") else weight
    return apart.reshape(9 if name == "groups" else len(apart), -1), apart.shape


def from_channel(name: str, rows: Array, shape: tuple[int, ...]) -> Array:
    apart = rows.reshape(shape)
    if name == "groups":
        return np.ascontiguousarray(apart.transpose(0, 2, 1, 3, 4).reshape(6, 3, 2, 2), np.float32)
    return np.ascontiguousarray(apart.swapaxes(0, 1) if name in ("up", "one") else apart, np.float32)


def test_a_chain_of_int8_layers_stays_int8_and_the_input_that_is_added_does_not(
    restoring: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    _, source = restoring
    path = qdq.quantise(source, tmp_path / "q.onnx", at("int8", source), CROPS).path
    found = operations(path, tmp_path)
    assert found["QLinearConv"] == 6
    assert (found["QLinearConcat"], found["QLinearAdd"], found["Add"]) == (1, 1, 1)
    assert (found["QuantizeLinear"], found["DequantizeLinear"], found["Relu"]) == (1, 1, 0)


def test_every_layer_that_can_computes_in_integers(everything: tuple[nn.Module, Path], tmp_path: Path) -> None:
    _, source = everything
    artifact = qdq.quantise(source, tmp_path / "q.onnx", at("int8", source), CROPS)
    found = operations(artifact.path, tmp_path)
    products = found["MatMulIntegerToFloat"] + found["QLinearMatMul"]
    assert (found["QLinearConv"], products, found["QGemm"] + found["QLinearMatMul"]) >= (1, 2, 1)
    assert found["ConvTranspose"] == 3
    assert "computed in float32, for which onnxruntime has no integer operation: up, one, groups" in artifact.notes[1]


def chain(folder: Path, end: str = "Relu", bias: float = 0.1) -> Path:
    """Three convolutions of 8 channels with `end` behind each, and pooling behind the first, written without torch."""
    rng = seeds.stream(0, "chain")
    nodes, weights, last, channels = [], [], "input", 3
    for name in "abc":
        weight = rng.normal(0, 1.4 / (3 * channels**0.5), (8, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{name}.weight"))
        weights.append(numpy_helper.from_array(np.full(8, bias, np.float32), f"{name}.bias"))
        nodes.append(onnx.helper.make_node("Conv", [last, f"{name}.weight", f"{name}.bias"], [name], pads=[1] * 4))
        nodes.append(onnx.helper.make_node(end, [name, *(["low", "high"] if end == "Clip" else [])], [f"{name}r"]))
        last, channels = f"{name}r", 8
        if name == "a":
            nodes.append(onnx.helper.make_node("MaxPool", [last], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]))
            last = "pooled"
    weights += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("low", 0), ("high", 0.5))]
    ends = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"]) for name in ("input", last)]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    (folder / "chain.onnx").write_bytes(model.SerializeToString())
    return folder / "chain.onnx"


@pytest.mark.parametrize("width", ["float32", "float16", "int4"])
def test_a_float_layer_between_int8_layers_keeps_its_weights(width: str, tmp_path: Path) -> None:
    """Else onnxruntime rounds them to one grid of 8 bits for the whole tensor, through the pooling before it, too."""
    path = qdq.quantise(chain(tmp_path), tmp_path / "q.onnx", {"a": "int8", "b": width, "c": "int8"}, CROPS).path
    assert operations(path, tmp_path)["QLinearConv"] == 2
    assert parity_db(path, CROPS) > 55


def test_int4_weights_can_compute_in_int8(tmp_path: Path) -> None:
    source, widths = chain(tmp_path), {"a": "int8", "b": "int4", "c": "int8"}
    path = qdq.quantise(source, tmp_path / "q.onnx", widths, CROPS, integer_int4=True).path
    assert weights_in(path)["b"].data_type == TensorProto.INT4
    assert operations(path, tmp_path)["QLinearConv"] == 3
    assert path.stat().st_size == qdq.size_of(source, widths, integer_int4=True)


@pytest.mark.parametrize("end", ["Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish"])
def test_activations_behind_integer_layers(end: str, tmp_path: Path) -> None:
    source = chain(tmp_path, end)
    path = qdq.quantise(source, tmp_path / "q.onnx", at("int8", source), CROPS).path
    assert path.stat().st_size == qdq.size_of(source, at("int8", source))
    assert operations(path, tmp_path)["QLinearConv"] == 3
    assert difference(open_onnx(path)(CROPS), open_onnx(source)(CROPS)) < 0.05
    assert parity_db(path, CROPS) > 45


def test_a_bias_too_large_for_its_weights_is_refused_and_a_channel_of_zeros_is_not(tmp_path: Path) -> None:
    source = chain(tmp_path, bias=1.0)
    model = onnx.load(source)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "b.weight")
    value = numpy_helper.to_array(weight).copy()
    for factor, fits in ((1e-12, False), (0.0, True)):
        value[3] *= factor
        weight.CopyFrom(numpy_helper.from_array(value, "b.weight"))
        source.write_bytes(model.SerializeToString())
        scales = {"b": np.full(8, 0.01, np.float32)}
        scales["b"][3] = 1e-14
        if fits:
            path = qdq.quantise(source, tmp_path / "q.onnx", at("int8", source), CROPS, scales=scales).path
            assert difference(open_onnx(path)(CROPS), open_onnx(source)(CROPS)) < 0.2
        else:
            with pytest.raises(ExportError, match="b: a bias is so large"):
                qdq.quantise(source, tmp_path / "q.onnx", at("int8", source), CROPS, scales=scales)
            assert not (tmp_path / "q.onnx").exists()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sizes_are_exact_for_any_widths(restoring: tuple[nn.Module, Path], tmp_path: Path, data: st.DataObject) -> None:
    _, source = restoring
    names = layers_of(source)
    widths = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(WIDTHS)))
    sizes = qdq.sizes(source, widths)
    artifact = qdq.quantise(source, tmp_path / "q.onnx", widths, CROPS[:1])
    assert sizes.total == artifact.size_bytes
    assert set(sizes.layers) == set(names)
    assert sizes.rest > 0
    float_sizes = qdq.sizes(source, {}).layers
    for name, width in widths.items():
        assert width == "float32" or sizes.layers[name] < float_sizes[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet-v2", "restormer"])
def test_networks_of_the_zoo(name: str, tmp_path: Path) -> None:
    """All int8, and all widths in turn: sizes are exact, and what is run is what is written."""
    model, (image,) = architecture(name)
    model, crops = copy.deepcopy(model).float().eval(), image.float().numpy()
    source = export_onnx(model, image.float(), tmp_path / "float.onnx", metadata={}).path
    names = layers_of(source)
    assert {layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)} <= set(names)
    for widths in (at("int8", source), {layer: WIDTHS[number % 4] for number, layer in enumerate(names)}):
        path = qdq.quantise(source, tmp_path / "q.onnx", widths, crops).path
        assert path.stat().st_size == qdq.size_of(source, widths)
        assert parity_db(path, crops) > 45
        if "int4" not in widths.values():
            assert difference(open_onnx(path)(crops), open_onnx(source)(crops)) < 0.2


def test_an_int8_file_is_near_a_quarter(tmp_path: Path) -> None:
    """Half of what onnxruntime's own quantisation adds to the bare weights, at the least."""
    source = chain(tmp_path)
    weights = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(source).graph.initializer)
    ours = qdq.quantise(source, tmp_path / "q.onnx", at("int8", source), CROPS).size_bytes
    assert ours - weights < (quantise_whole(source, tmp_path / "w.onnx", CROPS).size_bytes - weights) / 2


def test_what_cannot_be_asked_is_said(restoring: tuple[nn.Module, Path], tmp_path: Path) -> None:
    _, source = restoring
    path = tmp_path / "q.onnx"
    for error, words, widths, more in (
        (UsageError, "weight called nobody.weight", {"nobody": "int8"}, {}),
        (UsageError, "width 'int3' of head", {"head": "int3"}, {}),
        (UsageError, "expected layers that are int8 or int4", {"head": "float16"}, {"scales": {"head": np.ones(8)}}),
        (UsageError, r"scales of head: shape \(3,\)", {"head": "int8"}, {"scales": {"head": np.ones(3)}}),
        (UsageError, "scales of head", {"head": "int8"}, {"scales": {"head": np.zeros(8)}}),
        (UsageError, "calibration 'best' is not known", {"head": "int8"}, {"method": "best"}),
        (DataError, "does not run on crops of \\(1, 16, 16\\)", {"head": "int8"}, {"crops": CROPS[:, :1]}),
        (DataError, "no crops", {"head": "int8"}, {"crops": CROPS[:0]}),
    ):
        with pytest.raises(error, match=words):
            qdq.quantise(source, path, widths, **{"crops": CROPS, **more})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no such file"):
        qdq.quantise(tmp_path / "none.onnx", path, {}, CROPS)
    for methods, words in (((), "no calibration is named"), (("minmax", "best"), "'best' is not known")):
        with pytest.raises(UsageError, match=words):
            qdq.chosen_method(source, {"head": "int8"}, CROPS, lambda path: 0.0, methods=methods)
    assert list(tmp_path.iterdir()) == []


def test_ranges_are_those_of_the_tensors_and_methods_cut_what_is_rare(tmp_path: Path) -> None:
    model = onnx.load(chain(tmp_path))
    crops = seeds.stream(1, "crops").normal(0, 1, (4, 3, 64, 64)).astype(np.float32)
    crops[2, 0, 3, 4] = 40.0
    found = measure_ranges(model, ["input", "ar"], crops, tuple(METHODS))
    assert found["minmax"]["input"] == (float(crops.min()), 40.0)
    assert found["minmax"]["ar"][0] == 0
    for method in ("percentile", "entropy"):
        low, high = found[method]["input"]
        assert crops.min() <= low < -1
        assert 1 < high < 40
    again = measure_ranges(model, ["ar", "input"], crops[::-1], tuple(METHODS))
    assert again == found
    crops[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="input are not finite"):
        measure_ranges(model, ["input"], crops)


def test_the_method_is_chosen_by_what_it_is_worth(tmp_path: Path) -> None:
    source, seen = chain(tmp_path), list[int]()
    values = iter([1.0, 3.0, float("nan")])

    def evaluate(path: Path) -> float:
        seen.append(path.stat().st_size)
        return next(values)

    chosen = qdq.chosen_method(source, at("int8", source), CROPS, evaluate)
    assert (chosen.method, list(chosen.values)) == ("percentile", ["minmax", "percentile", "entropy"])
    assert set(seen) == {qdq.size_of(source, at("int8", source))}
    assert qdq.chosen_method(source, at("int4", source), CROPS, evaluate).method == "minmax"


def test_onnxruntimes_own_quantisation_is_silent_and_leaves_logging_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    source = chain(tmp_path)
    artifact = quantise_whole(source, tmp_path / "w.onnx", CROPS)
    assert (root.level, list(root.handlers)) == before
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert difference(open_onnx(artifact.path)(CROPS), open_onnx(source)(CROPS)) < 0.05
    assert artifact.size_bytes == artifact.path.stat().st_size
