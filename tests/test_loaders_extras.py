"""Networks that other packages build: spandrel's, timm's, and ONNX files; each needs its extra."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import lively
from onnx import TensorProto, helper
from torch import nn
from zoo import architecture

from qcompress import checkpoints, loading, restoration, slim_folder, surgery, timm_models, tracing
from qcompress.architectures.dncnn import build_dncnn
from qcompress.checkpoints import Checkpoint
from qcompress.errors import ArchitectureError, InputError, PlanError, UsageError
from qcompress.exporters import EXPORTERS, graph, modules
from qcompress.exporters.runtime import open_onnx
from qcompress.plans import Plan
from qcompress.selection import Selection


def extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("QCOMPRESS_EXTRAS"):  # set where they are installed to be tested: `make extras`
            raise
        pytest.skip(f"{name} is not installed")


def slimmed(checkpoint: Checkpoint, folder: Path, size: int = 32) -> tuple[nn.Module, Plan]:
    """The network without two units, saved to `folder`."""
    groups = tracing.trace(checkpoint.model, torch.zeros(checkpoint.example_shape(size)))
    selection = Selection(groups.space, (0, 1))
    plan = Plan.of(
        slim_folder.source_of(checkpoint),
        groups,
        selection,
        budget="filters",
        sparsity=0.1,
        objective="taylor",
        backend="neal",
        seed=0,
    )
    slim = surgery.slim(checkpoint.model, plan.layer_cuts)
    folder.mkdir()
    slim_folder.save(folder, plan, slim)
    return slim, plan


def same(one: nn.Module, other: nn.Module, channels: int = 3, size: int = 32) -> bool:
    x = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(one(x), other(x))


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact super-resolution network of spandrel's: x2, 12 channels."""
    extra("spandrel")
    arch = importlib.import_module("spandrel.architectures.Compact.__arch.SRVGG")
    network = lively(arch.SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=12, num_conv=2, upscale=2))
    path = tmp_path_factory.mktemp("compact") / "compact.pth"
    torch.save({"params_ema": network.state_dict()}, path)
    return path


def test_a_state_dict_that_is_none_of_ours_is_offered_to_spandrel(compact: Path, tmp_path: Path) -> None:
    checkpoint = checkpoints.load(compact)
    assert checkpoint.architecture == "spandrel:Compact"
    assert (checkpoint.channels, checkpoint.stride) == (3, 1)
    with torch.no_grad():
        assert checkpoint.model(torch.rand(1, 3, 20, 24)).shape == (1, 3, 40, 48)
    slim, plan = slimmed(checkpoint, tmp_path / "slim")
    compact.rename(tmp_path / "elsewhere.pth")  # neither the weights nor pickle are needed
    try:
        assert same(slim_folder.load(tmp_path / "slim"), slim)
    finally:
        (tmp_path / "elsewhere.pth").rename(compact)
    assert plan.checkpoint.architecture == "spandrel:Compact"


def test_insisting_on_spandrel(compact: Path, checkpoint: Path) -> None:
    assert checkpoints.load(compact, arch="spandrel").architecture == "spandrel:Compact"
    with pytest.raises(ArchitectureError, match="does not recognise"):
        checkpoints.load(compact, arch="spandrel:NAFNet")
    with pytest.raises(ArchitectureError, match=r"does not recognise|cannot build"):
        checkpoints.load(checkpoint, arch="spandrel")
    with pytest.raises(ArchitectureError, match="takes no arguments"):
        checkpoints.load(compact, arch="spandrel", arch_args={"width": 3})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"body.0.weight": [2**14, 2**14, 3, 3]}, "expected at most"),
        ({"body.0.weight": [3, -1]}, "expected a list of sizes"),
        ({"body.0.weight": [3, True]}, "expected a list of sizes"),
        ({"body.0.weight": "3"}, "expected a list of sizes"),
        ([3], "expected the shapes"),
        (None, "expected the shapes"),
    ],
)
def test_shapes_from_a_plan_are_bounded(shapes: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        restoration.build("spandrel:Compact", {"shapes": shapes}, held=1)


def test_shapes_of_another_network_are_refused(compact: Path) -> None:
    arguments = checkpoints.load(compact).arguments
    with pytest.raises(ArchitectureError, match="recognises spandrel:Compact"):
        restoration.build("spandrel:NAFNet", arguments, held=1)


def test_without_spandrel_it_is_named_as_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration, "importable", lambda: "ModuleNotFoundError: No module named 'spandrel'")
    torch.save({"strange.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(ArchitectureError) as caught:
        checkpoints.load(tmp_path / "a.pt")
    assert "pip install 'qcompress[restoration]'" in str(caught.value.hint)
    with pytest.raises(ArchitectureError, match="cannot be imported"):
        checkpoints.load(tmp_path / "a.pt", arch="spandrel")


def test_timm_by_name(tmp_path: Path) -> None:
    timm = extra("timm")
    network = lively(timm.create_model("resnet10t", pretrained=False, num_classes=7))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    checkpoint = checkpoints.load(tmp_path / "net.pt", arch="timm:resnet10t")
    assert checkpoint.arguments["num_classes"] == 7
    with torch.no_grad():
        assert checkpoint.model(torch.rand(1, 3, 64, 64)).shape == (1, 7)
    slim, _ = slimmed(checkpoint, tmp_path / "slim", 64)
    assert same(slim_folder.load(tmp_path / "slim"), slim, size=64)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm:resnet1", {}, "no network of this name"),
        ("timm:hf-hub:someone/net", {}, "no network of this name"),
        ("timm:resnet10t", {"pretrained": True}, "not allowed"),
        ("timm:resnet10t", {"checkpoint_path": "a.pt"}, "not allowed"),
        ("timm:resnet10t", {"pretrained_cfg_overlay": {"file": "a.pt"}}, "not allowed"),
        ("timm:resnet10t", {"nonsense": 3}, "TypeError"),
    ],
)
def test_timm_neither_downloads_nor_guesses(name: str, arguments: dict[str, Any], message: str) -> None:
    extra("timm")
    with pytest.raises(ArchitectureError, match=message):
        timm_models.build(name, arguments, held=1)


def exported(network: nn.Module, path: Path, size: int = 32) -> Path:
    EXPORTERS["onnx"](network, torch.zeros(1, 3, size, size), path, opset=18, dynamic=True, metadata={})
    return path


def shuffling() -> nn.Module:
    """Pixel shuffle, BatchNorm (folded on export), PReLU, bilinear upsampling: what super-resolution has."""
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.PReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.PixelShuffle(2),
    ]
    return lively(nn.Sequential(*layers))


def test_an_onnx_file_is_pruned_as_modules(tmp_path: Path) -> None:
    extra("onnx2torch")
    network = shuffling()
    checkpoint = loading.load(exported(network, tmp_path / "net.onnx"))
    assert checkpoint.architecture == loading.ONNX
    assert {"0", "4"} <= {name for name, _ in checkpoint.model.named_children()}
    x = torch.rand(2, 3, 20, 24)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.model(x), network(x), rtol=1e-4, atol=1e-4)
    slim, _ = slimmed(checkpoint, tmp_path / "slim")
    assert same(slim_folder.load(tmp_path / "slim", arch=str(tmp_path / "net.onnx")), slim)
    with pytest.raises(PlanError, match="whose graph is needed"):
        slim_folder.load(tmp_path / "slim")
    other = exported(nn.Sequential(nn.Conv2d(3, 3, 1)), tmp_path / "other.onnx")
    with pytest.raises(PlanError, match=r"the plan is for net\.onnx"):
        slim_folder.load(tmp_path / "slim", arch=str(other))
    with pytest.raises(UsageError, match="holds its architecture"):
        loading.load(other, arch="dncnn")


def saved(nodes: list[onnx.NodeProto], path: Path, opset: int = 18) -> Path:
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [value("y", TensorProto.FLOAT, None)]
    weights = [helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 1, 1], [0.5] * 12)]
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def test_operations_that_cannot_be_converted_are_named(tmp_path: Path) -> None:
    extra("onnx2torch")
    conv = helper.make_node("Conv", ["x", "w"], ["h"])
    with pytest.raises(ArchitectureError, match="Mish"):
        loading.load(saved([conv, helper.make_node("Mish", ["h"], ["y"])], tmp_path / "a.onnx"))
    with pytest.raises(ArchitectureError, match="MeanVarianceNormalization"):
        loading.load(saved([conv, helper.make_node("MeanVarianceNormalization", ["h"], ["y"])], tmp_path / "b.onnx"))


def test_a_conversion_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter = extra("onnx2torch")
    path = exported(shuffling(), tmp_path / "net.onnx")
    convert = converter.convert

    def wrong(model: onnx.ModelProto) -> nn.Module:
        module: nn.Module = convert(model)
        with torch.no_grad():
            next(module.parameters()).mul_(1.01)
        return module

    monkeypatch.setattr(converter, "convert", wrong)
    with pytest.raises(ArchitectureError, match="differs from onnxruntime by"):
        loading.load(path)


def test_external_data_outside_the_folder_are_refused(tmp_path: Path) -> None:
    path = saved([helper.make_node("Conv", ["x", "w"], ["y"])], tmp_path / "a.onnx")
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "48")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    (tmp_path.parent / "secret.bin").write_bytes(bytes(48))
    with pytest.raises(InputError, match="inside the folder"):
        loading.load(path)


def test_a_chain_that_may_be_dilated_gets_a_note(tmp_path: Path) -> None:
    for depth, notes in ((7, 1), (6, 0)):
        torch.save(lively(build_dncnn(channels=1, width=4, depth=depth)).state_dict(), tmp_path / "a.pt")
        assert len(checkpoints.load(tmp_path / "a.pt").notes) == notes


def test_a_plan_of_a_live_module_names_no_code(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3))
    slim, plan = slimmed(checkpoints.of_module(network), tmp_path / "slim")
    with pytest.raises(PlanError, match="given as an object"):
        slim_folder.load(tmp_path / "slim")
    assert same(slim_folder.load(tmp_path / "slim", into=network), slim)
    assert plan.checkpoint.file == "Sequential"


CONVERTED = ["dncnn", "half-unet-ghost", "unet-transposed", "resnet-basic", "mobilenet-v2", "resnext", "espcn", "vgg"]


@pytest.mark.parametrize("name", CONVERTED)
def test_an_onnx_file_gets_its_own_graph_back(name: str, tmp_path: Path) -> None:
    extra("onnx2torch")
    model, inputs = architecture(name)
    x = torch.rand(1, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(0))
    source, target = tmp_path / "dense.onnx", tmp_path / "slim.onnx"
    EXPORTERS["onnx"](model.float().eval(), x, source, opset=18, dynamic=False, metadata={})
    dense = modules.to_module(source)
    groups = tracing.trace(dense, x)
    gone = np.zeros(len(groups.space), bool)
    for span in groups.space.spans:
        gone[span.start : span.start + (span.stop - span.start) // 2] = True
    slim = surgery.slim(dense, groups.cuts(Selection.of(groups.space, gone))).eval()
    artifact = graph.rewrite(source, dense, slim, x, target, metadata={"plan": "1"})
    assert artifact.size_bytes < source.stat().st_size
    assert artifact.opset == 18
    before, after = onnx.load_model(str(source)), onnx.load_model(str(target))
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in before.graph.node]
    with torch.no_grad():
        expected = slim(x.clone()).numpy()
    assert np.abs(open_onnx(target)(x.numpy()) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_layers_that_share_a_weight_get_their_own(tmp_path: Path) -> None:
    extra("onnx2torch")
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 4, 1, 1), np.linspace(-1, 1, 16, dtype=np.float32))
    ends = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, np.linspace(0.1, 1, 12, dtype=np.float32))
        for name, shape in (("first", (4, 3, 1, 1)), ("last", (3, 4, 1, 1)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Conv", ["c", "last"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 8, 8)) for name in "xy"]
    body = helper.make_graph(nodes, "shared", values[:1], values[1:], [weight, *ends])
    source = tmp_path / "shared.onnx"
    onnx.save_model(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(source))
    dense = modules.to_module(source)
    x = torch.rand(1, 3, 8, 8)
    groups = tracing.trace(dense, x)
    slim = surgery.slim(dense, groups.cuts(Selection(groups.space, (0,)))).eval()
    artifact = graph.rewrite(source, dense, slim, x, tmp_path / "slim.onnx", metadata={})
    with torch.no_grad():
        expected = slim(x.clone()).numpy()
    assert np.abs(open_onnx(artifact.path)(x.numpy()) - expected).max() <= 1e-5 * np.abs(expected).max()
