"""ONNX export: what is written is what was asked, and computes what torch computes."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from qcompress.architectures.half_unet import HalfUNet
from qcompress.errors import ExportError, InputError, OutputError
from qcompress.exporters import EXPORTERS, Artifact
from qcompress.exporters.runtime import find_stride, first_line, open_bytes, open_onnx

METADATA = {"checkpoint_sha256": "ab" * 32, "plan_sha256": "cd" * 32, "tool": "qcompress 0"}


def example(channels: int = 3, side: int = 16, batch: int = 1) -> Tensor:
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(0))


def with_random_weights(model: nn.Module) -> nn.Module:
    """Weights and BatchNorm statistics that leave no term out."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.2, generator=generator)
    return model.eval()


def export(model: nn.Module, path: Path, given: Tensor | None = None, *, opset: int = 18, dynamic: bool = True) -> Artifact:
    given = example() if given is None else given
    return EXPORTERS["onnx"](model, given, path, opset=opset, dynamic=dynamic, metadata=METADATA)


def relative_difference(model: nn.Module, path: Path, given: Tensor) -> float:
    with torch.inference_mode():
        expected = model(given).numpy()
    return float(np.abs(open_onnx(path)(given.numpy()) - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def half_unet() -> nn.Module:
    return with_random_weights(HalfUNet(width=8, levels=3))


@pytest.fixture(scope="module")
def written(half_unet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(half_unet, tmp_path_factory.mktemp("half-unet") / "model.onnx")


def test_artifact_describes_the_file(written: Artifact) -> None:
    data = written.path.read_bytes()
    assert (written.size_bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (written.format, written.opset, written.dynamic) == ("onnx", 18, True)
    assert written.notes == ("height and width must be multiples of 4",)


def test_one_file_and_nothing_left_over(written: Artifact) -> None:
    assert list(written.path.parent.iterdir()) == [written.path]


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 3, 4, 4), (3, 3, 20, 36), (2, 3, 64, 8)])
def test_any_multiple_of_the_stride_computes_what_torch_computes(
    half_unet: nn.Module, written: Artifact, shape: tuple[int, ...]
) -> None:
    given = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    assert relative_difference(half_unet, written.path, given) < 1e-5


def test_other_sizes_are_refused_not_wrong(written: Artifact) -> None:
    with pytest.raises(InputError, match="cannot run on an input of shape"):
        open_onnx(written.path)(np.zeros((1, 3, 17, 16), np.float32))


def test_batchnorm_is_folded_and_names_are_fixed(written: Artifact) -> None:
    graph = onnx.load(written.path).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == ["output"]


def test_nothing_local_is_in_the_file_but_the_metadata_is(written: Artifact) -> None:
    data = written.path.read_bytes()
    for place in (Path(__file__).parents[1], Path.home(), Path(torch.__file__).parents[2]):
        assert str(place).encode() not in data
    for source in (b"def forward", b"self.enc", b"half_unet.py", b"HalfUNet"):
        assert source not in data
    assert dict(open_onnx(written.path).metadata) == METADATA | {"stride": "4"}


def test_model_and_example_are_not_changed(tmp_path: Path) -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)).train()
    before, given = copy.deepcopy(model.state_dict()), example() - 0.5
    kept = given.clone()
    export(model, tmp_path / "x.onnx", given)
    assert model.training and all(module.training for module in model.modules())
    assert torch.equal(given, kept)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes(half_unet: nn.Module, written: Artifact, tmp_path: Path) -> None:
    assert export(half_unet, tmp_path / "again.onnx").sha256 == written.sha256


def test_static_export_takes_one_size(half_unet: nn.Module, tmp_path: Path) -> None:
    artifact = export(half_unet, tmp_path / "x.onnx", dynamic=False)
    assert not artifact.dynamic
    assert artifact.notes == ()
    assert open_onnx(artifact.path).input_shape == (1, 3, 16, 16)
    assert relative_difference(half_unet, artifact.path, example()) < 1e-5


def test_a_slim_network_with_odd_channel_counts(tmp_path: Path) -> None:
    model = with_random_weights(
        nn.Sequential(nn.Conv2d(1, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 1, 3, padding=1))
    )
    artifact = export(model, tmp_path / "x.onnx", example(1))
    assert (artifact.dynamic, artifact.notes) == (True, ())
    assert relative_difference(model, artifact.path, torch.rand(2, 1, 7, 9)) < 1e-5


def test_transposed_depthwise_and_their_batchnorms(tmp_path: Path) -> None:
    model = with_random_weights(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
            nn.BatchNorm2d(6),
            nn.PReLU(6),
            nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False),
            nn.BatchNorm2d(4),
        )
    )
    artifact = export(model, tmp_path / "x.onnx")
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(artifact.path).graph.node}
    assert relative_difference(model, artifact.path, example(side=24)) < 1e-5


class Classifier(nn.Module):
    """Takes one size only; its BatchNorm has no convolution before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(torch.relu(self.norm(x)).flatten(1))
        return y


def test_a_network_of_one_size_keeps_its_batch_dynamic_and_says_why(tmp_path: Path) -> None:
    model = with_random_weights(Classifier())
    artifact = export(model, tmp_path / "x.onnx", example(1, 8))
    assert not artifact.dynamic
    assert artifact.notes[0] == "the input is 8x8 only: the network runs on no other size"
    assert "BatchNormalization" in artifact.notes[1]
    assert open_onnx(artifact.path).input_shape == (None, 1, 8, 8)
    assert relative_difference(model, artifact.path, example(1, 8, batch=3)) < 1e-5


class DependsOnSize(nn.Module):
    """Decides in Python by the sizes, which no graph can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if x.shape[2] % 5 == 1 and x.shape[0] == 1 else x + 1


def test_python_that_depends_on_sizes_is_exported_for_one_size(tmp_path: Path) -> None:
    artifact = export(DependsOnSize(), tmp_path / "x.onnx")
    assert not artifact.dynamic
    assert artifact.notes[0].startswith("the input is 16x16")
    assert "\x1b" not in artifact.notes[0]
    assert relative_difference(DependsOnSize(), artifact.path, example()) == 0


@pytest.mark.parametrize("opset", [17, 20])
def test_opset_is_what_was_asked(tmp_path: Path, opset: int) -> None:
    artifact = export(nn.Conv2d(3, 3, 3), tmp_path / "x.onnx", opset=opset)
    assert [entry.version for entry in onnx.load(artifact.path).opset_import if entry.domain == ""] == [opset]


def test_an_opset_that_cannot_be_written_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot write opset 99"):
        export(nn.Conv2d(3, 3, 3), tmp_path / "x.onnx", opset=99)
    assert list(tmp_path.iterdir()) == []


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x + 1


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("make", [Pair, Unexportable])
def test_networks_that_cannot_be_written(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ExportError) as caught:
        export(make(), tmp_path / "x.onnx", dynamic=False)
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_wrong_export_is_caught(tmp_path: Path) -> None:
    class Unfaithful(nn.Module):
        """Computes one thing while it is exported and another when it is run."""

        def forward(self, x: Tensor) -> Tensor:
            return x if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None else 2 * x

    with pytest.raises(ExportError, match="differs from torch's"):
        export(Unfaithful(), tmp_path / "x.onnx", torch.zeros(1, 3, 16, 16))
    assert list(tmp_path.iterdir()) == []


def test_the_older_exporter_writes_what_the_newer_one_does_not(tmp_path: Path) -> None:
    class Refused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.compiler.is_compiling():
                raise RuntimeError("not today")
            return 2 * x

    artifact = export(Refused(), tmp_path / "x.onnx", torch.zeros(1, 3, 16, 16))
    assert artifact.dynamic
    assert any("older exporter" in note and "not today" in note for note in artifact.notes)
    x = np.random.default_rng(0).random((2, 3, 8, 24), np.float32)
    assert np.array_equal(open_onnx(artifact.path)(x), 2 * x)


def test_no_noise_for_the_user(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    levels = [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")]
    with pytest.raises(ExportError):
        export(nn.Conv2d(3, 3, 3), tmp_path / "x.onnx", opset=99)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert levels == [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        export(nn.Conv2d(3, 3, 3), tmp_path / "file" / "x.onnx")


def test_artifact_is_frozen(written: Artifact) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        written.opset = 1  # type: ignore[misc]


@pytest.mark.parametrize("stride", [1, 2, 8, 64])
def test_stride_is_found(stride: int) -> None:
    assert find_stride(lambda height, width: height % stride == 0 and width % stride == 0, 64, 128) == stride


def test_no_other_size_has_no_stride() -> None:
    assert find_stride(lambda height, width: (height, width) == (64, 64), 64, 64) is None


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x01", b"\x00" * 100])
def test_damaged_onnx_is_one_clear_line(data: bytes) -> None:
    with pytest.raises(InputError, match=r"x\.onnx: not a readable ONNX file") as caught:
        open_bytes(data, "x.onnx")
    assert "\n" not in caught.value.message


def test_every_truncation_is_refused(written: Artifact) -> None:
    data = written.path.read_bytes()
    for length in range(0, len(data), len(data) // 20):
        with pytest.raises(InputError):
            open_bytes(data[:length], "x.onnx")


def test_first_line_is_short_and_never_empty() -> None:
    assert first_line(ValueError("\n a \n b")) == "a"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 999))) == 200
