from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcompress import checkpoints
from qcompress.architectures.dncnn import build_dncnn
from qcompress.architectures.half_unet import HalfUNet
from qcompress.errors import ArchitectureError, CheckpointError, QCompressError, UsageError

MODEL = build_dncnn(channels=1, depth=4, width=3, batchnorm=True)
GENERATOR = torch.Generator().manual_seed(0)
STATE: dict[str, Tensor] = {
    name: torch.rand(tensor.shape, generator=GENERATOR) + 0.1 if tensor.is_floating_point() else tensor
    for name, tensor in MODEL.state_dict().items()
}
EMA = {name: tensor + 1 for name, tensor in STATE.items()}


def torch_bytes(content: object, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


ZIP, SAFE = torch_bytes(STATE), safetensors.torch.save(STATE)
LEGACY = torch_bytes(STATE, _use_new_zipfile_serialization=False)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "data",
    [
        SAFE,
        ZIP,
        LEGACY,
        torch_bytes(OrderedDict(STATE)),
        torch_bytes({"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}}),
        torch_bytes({"params": STATE}),
        torch_bytes({"params": EMA, "params_ema": STATE}),
        torch_bytes({"model": {"state_dict": STATE}}),
        torch_bytes({"model_state_dict": STATE}),
        torch_bytes({"net": prefixed("module.", STATE)}),
        torch_bytes(prefixed("module.", STATE)),
        torch_bytes(prefixed("_orig_mod.module.", STATE)),
        torch_bytes({"state_dict": prefixed("model.", STATE)}),
        torch_bytes({name: tensor for name, tensor in STATE.items() if "num_batches" not in name}),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.pth.tar", "a.safetensors", "a"])
def test_state_dicts_by_content(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    checkpoint = checkpoints.load(tmp_path / name)
    assert (checkpoint.architecture, checkpoint.channels, checkpoint.stride) == ("dncnn", 1, 1)
    assert checkpoint.arguments["depth"] == 4
    assert not checkpoint.model.training
    assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())
    for key, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, STATE[key])


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "a.pt").write_bytes(ZIP)
    assert checkpoints.load(tmp_path / "a.pt").sha256 == hashlib.sha256(ZIP).hexdigest()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}
    torch.save(state, tmp_path / "a.pt")
    for key, tensor in checkpoints.load(tmp_path / "a.pt").model.state_dict().items():
        assert torch.equal(tensor, state[key].to(STATE[key].dtype))


def test_loading_leaves_the_global_generator_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").write_bytes(ZIP)
    before = torch.random.get_rng_state()
    checkpoints.load(tmp_path / "a.pt")
    write_factory(tmp_path, monkeypatch, "own_random")
    checkpoints.load(tmp_path / "plain.pt", arch="own_random:Plain")
    assert torch.equal(before, torch.random.get_rng_state())


PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
    return buffer.getvalue()


class Runs:
    """Unpickled, it makes a folder: proof that code was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (PNG, "a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG image"),
        (b"hello, world\n" * 9, "is text"),
        (b"<!DOCTYPE html>", "failed download"),
        (b"\x08\n\x12\x07pytorch" + bytes(50), "an ONNX file"),
        (bytes(200) + b"\xff" * 200, "not a format"),
        (zip_bytes(), "without weights"),
        (ZIP[: len(ZIP) // 2], "truncated or damaged"),
        (LEGACY[: len(LEGACY) // 2], "truncated or damaged"),
        (SAFE[:100], "truncated"),
        (SAFE[:-4], "truncated"),
        (pickle.dumps({"a": 1}), "not one that torch.save writes"),
        (torch_bytes(STATE, pickle_protocol=4), "protocol 4"),
        (torch_bytes(STATE | {"a\n\x1b[31m": torch.zeros(2)}), r"called 'a.n.x1b"),
        (torch_bytes({"a\nb": 3}), r"found a.nb"),
        (torch_bytes([1, 2]), "holds a list"),
        (torch_bytes({"epoch": 3, "optimizer": {}}), "found epoch, optimizer"),
        (torch_bytes({}), "found nothing"),
        (
            torch_bytes(STATE | {"model.0.weight": STATE["model.0.weight"] * float("nan")}),
            "model.0.weight holds NaN or infinity in 27",
        ),
        (torch_bytes(STATE | {"model.0.bias": torch.tensor([0.0, 1e300, 0.0], dtype=torch.float64)}), "in 1 of 3"),
        (torch_bytes(STATE | {"model.0.weight": torch.zeros(3, 1, 3, 3, dtype=torch.int8)}), "model.0.weight is quantised"),
        (torch_bytes(STATE | {"model.0.weight": torch.zeros(3, 1, 3, 3).to(torch.float8_e4m3fn)}), "is quantised"),
        (torch_bytes(STATE | {"a": torch.eye(3).to_sparse()}), "a is sparse_coo"),
        (torch_bytes(STATE | {"a": torch.zeros(3, dtype=torch.complex64)}), "a is complex"),
        (torch_bytes(STATE | {"a": torch.zeros(1).expand(2**40)}), "no data of that size"),
        (torch_bytes(STATE | {"a": torch.zeros(3, device="meta")}), "no data of that size"),
    ],
)
def test_unusable_files(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=says) as caught:
        checkpoints.load(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_missing_folder_and_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, says in (
        ("none.pt", "no such file"),
        (".", "is a folder"),
        ("pipe", "not a regular file"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(CheckpointError, match=says):
            checkpoints.load(tmp_path / name)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    for how in ({}, {"_use_new_zipfile_serialization": False}):
        path = tmp_path / "a.pt"
        path.write_bytes(torch_bytes({"state_dict": STATE, "extra": Runs(proof)}, **how))
        with pytest.raises(CheckpointError, match=r"mkdir.*could run any code") as caught:
            checkpoints.load(path)
        assert "--arch" in str(caught.value.hint)
        assert "--trust-pickle" in str(caught.value.hint)
    assert not proof.exists()
    assert checkpoints.load(path, trust_pickle=True).architecture == "dncnn"
    assert proof.exists()


def test_a_pickled_network_is_refused_unless_trusted(tmp_path: Path) -> None:
    torch.save(
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 4, 3, padding=1), nn.PixelShuffle(2)).double(), tmp_path / "whole.pt"
    )
    with pytest.raises(CheckpointError, match=r"Sequential"):
        checkpoints.load(tmp_path / "whole.pt")
    checkpoint = checkpoints.load(tmp_path / "whole.pt", trust_pickle=True)
    assert (checkpoint.architecture, checkpoint.arguments, checkpoint.channels, checkpoint.stride) == ("pickle", {}, 2, 2)
    assert next(checkpoint.model.parameters()).dtype == torch.float32
    assert not checkpoint.model.training


def test_a_trusted_network_with_nan_is_refused_too(tmp_path: Path) -> None:
    broken = nn.Conv2d(1, 1, 1)
    nn.init.constant_(broken.weight, float("inf"))
    torch.save(broken, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        checkpoints.load(tmp_path / "whole.pt", trust_pickle=True)


def test_unknown_parameters_name_some_and_the_known_architectures(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 4)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ArchitectureError, match=r"0\.weight \[4, 3\].*half-unet, dncnn, unet") as caught:
        checkpoints.load(tmp_path / "a.pt")
    assert "--arch package.module:factory" in str(caught.value.hint)


def test_a_table_entry_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(torch_bytes(prefixed("module.", STATE)))
    x = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    residual = checkpoints.load(tmp_path / "a.pt", arch="dncnn").model(x)
    plain = checkpoints.load(tmp_path / "a.pt", arch="dncnn", arch_args={"residual": False})
    assert plain.arguments["residual"] is False
    assert torch.allclose(residual, x - plain.model(x), atol=1e-6)
    with pytest.raises(ArchitectureError, match=r"does not fit half-unet: missing: .*unexpected: "):
        checkpoints.load(tmp_path / "a.pt", arch="half-unet")
    with pytest.raises(ArchitectureError, match="argument depth"):
        checkpoints.load(tmp_path / "a.pt", arch="dncnn", arch_args={"depth": 0})
    with pytest.raises(ArchitectureError, match=r"unknown, expected package\.module:factory, timm:NAME, spandrel, "):
        checkpoints.load(tmp_path / "a.pt", arch="resnet")


FACTORY = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, width=4, channels_in=2):
        super().__init__()
        self.head = nn.Conv2d(channels_in, width, 3, padding=1)
        self.tail = nn.Conv2d(2 * width, channels_in, 3, padding=1)
        self.register_buffer("table", torch.arange(3.0), persistent=False)
    def forward(self, x):
        y = self.head(x)
        low = nn.functional.max_pool2d(y, 4)
        return self.tail(torch.cat([y, nn.functional.interpolate(low, scale_factor=4)], 1)) + self.table[1]

def fixed():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 10))

def fails():
    raise KeyError("no")

number = 3
def gives_number():
    return 3
"""


def write_factory(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A module of the user's in the current folder, and a file of its weights: plain.pt."""
    (folder / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {}
    exec(FACTORY, namespace)
    with torch.random.fork_rng(devices=[]):
        torch.save(namespace["Plain"]().state_dict(), folder / "plain.pt")
        torch.save(namespace["fixed"]().state_dict(), folder / "fixed.pt")
    return namespace


def test_a_factory_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_factory(tmp_path, monkeypatch, "own_network")
    checkpoint = checkpoints.load("plain.pt", arch="own_network:Plain", arch_args={"width": 4})
    assert (checkpoint.architecture, checkpoint.arguments) == ("own_network:Plain", {"width": 4})
    assert (checkpoint.channels, checkpoint.stride) == (2, 4)
    state = torch.load("plain.pt", weights_only=True)
    assert torch.equal(checkpoint.model.state_dict()["tail.weight"], state["tail.weight"])
    assert checkpoints.load("fixed.pt", arch="own_network:fixed").stride == 1


@pytest.mark.parametrize(
    ("arch", "arguments", "says"),
    [
        ("own_faulty:Plain", {"width": 5}, r"of another shape: head.weight \(file \[4, 2, 3, 3\], network \[5, 2, 3, 3\]\)"),
        ("own_faulty:Plain", {"depth": 5}, "raised TypeError"),
        ("own_faulty:fixed", {}, "missing: 0.weight"),
        ("own_faulty:fails", {}, "raised KeyError"),
        ("own_faulty:number", {}, "not callable"),
        ("own_faulty:gives_number", {}, "returned int"),
        ("own_faulty:nothing", {}, "has no nothing"),
        ("not_there_at_all:Plain", {}, "cannot be imported"),
    ],
)
def test_factories_that_do_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, arguments: dict[str, Any], says: str
) -> None:
    write_factory(tmp_path, monkeypatch, "own_faulty")
    with pytest.raises(ArchitectureError, match=says) as caught:
        checkpoints.load("plain.pt", arch=arch, arch_args=arguments)
    assert "\n" not in caught.value.message


def test_arguments_are_plain_values(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(ZIP)
    for value in (float("nan"), torch.float32):
        with pytest.raises(UsageError, match="plain JSON values"):
            checkpoints.load(tmp_path / "a.pt", arch="dncnn", arch_args={"epsilon": cast("float", value)})


def test_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "_REFERENCE", "no_such_file.safetensors")
    with pytest.raises(CheckpointError, match="missing from this installation"):
        checkpoints.load("reference")
    safetensors.torch.save_file(HalfUNet(3, 4, 2).state_dict(), "reference")
    assert checkpoints.load("reference").architecture == "half-unet"


quiet = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(
    st.sampled_from([SAFE, ZIP, LEGACY, b"PK\x03\x04", b"\x80\x02", b""]),
    st.integers(0, max(len(SAFE), len(ZIP), len(LEGACY))),
    st.binary(min_size=1, max_size=40),
    st.booleans(),
)
def test_any_bytes_load_or_are_an_error_of_ours(tmp_path: Path, whole: bytes, place: int, noise: bytes, cut: bool) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(whole[:place] + noise + (b"" if cut else whole[place + len(noise) :]))
    try:
        checkpoint = checkpoints.load(path)
    except QCompressError as error:
        assert "\n" not in error.message
    else:
        assert all(torch.isfinite(parameter).all() for parameter in checkpoint.model.parameters())
