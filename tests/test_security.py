"""What a stranger's checkpoint can try: run code, exhaust memory, time or the stack, lie about sizes."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import archive, called, dictionary, integer, tensor, text, torch_bytes

from qcompress import archives, checkpoints
from qcompress.architectures.dncnn import build_dncnn
from qcompress.errors import CheckpointError
from qcompress.weights import Weights, read_weights

MODEL = build_dncnn(channels=1, depth=3, width=3)
STATE = {name: torch.full_like(tensor, 0.1) for name, tensor in MODEL.state_dict().items()}


def saved(folder: Path, data: bytes, name: str = "a.pt") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def pickled(*items: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    return archive(dictionary(*items), storages or {"0": bytes(4)})


# Checkpoints: code


class Runs:
    """Unpickled, it makes a folder: proof that code was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_no_code_of_a_checkpoint_is_run(tmp_path: Path, legacy: bool, wrapped: bool) -> None:
    proof = tmp_path / "proof"
    content = {"state_dict": STATE | {"x": Runs(proof)}} if wrapped else Runs(proof)
    with pytest.raises(CheckpointError, match=r"holds more than weights \((posix|nt)\.mkdir\)"):
        checkpoints.load(saved(tmp_path, torch_bytes(content, legacy=legacy)))
    assert not proof.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "os.system", "torch.load", "torch.hub.load", "builtins.getattr"])
@pytest.mark.parametrize("opcode", [b"R", b"\x81"])
def test_nothing_outside_the_list_is_called(tmp_path: Path, name: str, opcode: bytes) -> None:
    data = archive(b"\x80\x02" + called(name, text("1"))[:-1] + opcode + b".")
    with pytest.raises(CheckpointError, match=rf"holds more than weights \({name}\)"):
        read_weights(saved(tmp_path, data))


def test_a_module_in_the_current_folder_is_not_imported_by_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that a stranger's archive was unpacked in is no place to import from, unless the user says so."""
    seen: list[bool] = []
    monkeypatch.chdir(tmp_path)

    def watched(path: Path, **how: bool) -> Weights:
        seen.append(str(tmp_path) in sys.path)
        return read_weights(path, **how)

    monkeypatch.setattr(checkpoints, "read_weights", watched)
    checkpoints.load(saved(tmp_path, torch_bytes(STATE)))
    checkpoints.load(saved(tmp_path, torch_bytes(STATE)), trust_pickle=True)
    assert seen == [False, True]


def test_a_trusted_pickle_still_loads(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    with pytest.raises(CheckpointError, match="holds"):
        read_weights(saved(tmp_path, torch_bytes(Runs(proof))), trust_pickle=True)
    assert proof.exists()


# Checkpoints: memory, time and the stack

DEEP = b"\x80\x02}" + b")" + b"\x85" * 100_000 + text("x") + b"s."
AGAIN = b"\x80\x02]q\x01(" + b"K\x01" * 100_000 + b"e" + b"](" + (b"ccollections\nOrderedDict\n(h\x01tR") * 1000 + b"e."


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pickled(text("w"), called("builtins.bytearray", integer(10**12))), r"more than weights \(builtins.bytearray\)"),
        (pickled(text("w"), called("__builtin__.bytearray", integer(10**12))), r"more than weights \(builtins.bytearray\)"),
        (pickled(text("w"), called("torch.FloatTensor", integer(10**12))), r"more than weights \(torch.FloatTensor\)"),
        (pickled(text("w"), called("_codecs.encode", text("é" * 99) + text("punycode"))), r"weights \(_codecs.encode\)"),
        (archive(DEEP), "nests tuples"),
        (archive(AGAIN), "copies the same data again and again"),
        (pickled(text("w"), tensor((10**12,), (0,), 1)), r"w of shape \[1000000000000\] has no data of that size"),
        (pickled(text("w"), tensor((10**8,), (1,), 1)), "truncated or damaged"),
        (pickled(text("w"), tensor((1,), (1,), 10**8)), "truncated or damaged"),
        (pickled(text("w"), tensor((1,), (1,), 1, offset=10**8)), "truncated or damaged"),
        (pickled(text("w"), tensor((2**62, 2**62), (1, 1), 1)), "truncated or damaged"),
        (
            pickled(
                *(part for i in range(300) for part in (text(f"w{i}"), tensor((10**5,), (1,), 10**5))),
                storages={"0": bytes(4 * 10**5)},
            ),
            "its weights take 120,000,000 bytes",
        ),
    ],
)
def test_bombs_in_a_pickle(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        read_weights(saved(tmp_path, data))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("numel", [10**8, 2**62])
def test_a_legacy_file_that_claims_a_large_storage(tmp_path: Path, numel: int) -> None:
    good = torch_bytes({"w": torch.zeros(1)}, legacy=True)
    claim = good.replace(b"K\x01Nt", integer(numel) + b"Nt").replace(b"K\x00K\x01\x85", b"K\x00" + integer(numel) + b"\x85")
    assert len(claim) > len(good)
    with pytest.raises(CheckpointError, match=r"truncated or damaged|take"):
        read_weights(saved(tmp_path, claim))


def test_what_training_scripts_save_passes_the_scan(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 1, 3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(1, 1, 9, 9)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [float(i) for i in range(20_000)],
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "name": "é" * 3000,
        "bytes": b"\x00\xff" * 10,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "set": {1, 2},
        "numbers": (1, -2, 2**40, 1.5, None, True, 2**70),
    }
    for legacy in (False, True):
        weights = read_weights(saved(tmp_path, torch_bytes(content, legacy=legacy)))
        assert isinstance(weights.content, dict)
        assert torch.equal(weights.content["0.weight"], model.state_dict()["0.weight"])


def test_half_precision_and_shared_weights_are_no_bomb(tmp_path: Path) -> None:
    shared = torch.rand(400, 400).half()
    weights = read_weights(saved(tmp_path, torch_bytes({f"w{i}": shared for i in range(4)})))
    assert isinstance(weights.content, dict)
    assert weights.content["w3"].dtype == torch.float32


# Archives


def with_members(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def names_of(data: bytes, most_growth: float = 4) -> tuple[str, ...]:
    return archives.member_names(io.BytesIO(data), most_growth=most_growth)


def overlapping() -> bytes:
    """Two entries of the directory that share the bytes of one member."""
    data = with_members({"a": bytes(5000), "b": b""})
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    first = data[data.index(b"PK\x01\x02") : at]
    return data[:at] + first.replace(b"a", b"b") + data[at + len(first) :]


def test_good_archives() -> None:
    assert names_of(with_members({"a": b"1", "b": b"2"})) == ("a", "b")
    assert names_of(torch_bytes(STATE))[0].endswith("data.pkl")
    assert names_of(with_members({"a": bytes(4_000_000)}, zipfile.ZIP_DEFLATED), most_growth=1100) == ("a",)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "does not end like a zip"),
        (b"PK\x03\x04" + bytes(100), "does not end like a zip"),
        (with_members({"a": bytes(10**7)}, zipfile.ZIP_DEFLATED), "unpacks to 10,000,000 bytes"),
        (overlapping(), "overlap"),
        (with_members({"a": b"1"}) + b"x", "does not end like a zip"),
        (b"x" + with_members({"a": b"1"}), "not where it says"),
        (with_members({"a": b"1", "b": b"2"}).replace(b"b", b"a"), "two members of one name"),
    ],
)
def test_archives_that_lie(data: bytes, says: str) -> None:
    with pytest.raises(zipfile.BadZipFile, match=says):
        names_of(data)


def test_a_compressed_checkpoint_is_no_bomb_but_a_bomb_is(tmp_path: Path) -> None:
    noise = torch.rand(3000, generator=torch.Generator().manual_seed(0))
    data = archive(
        dictionary(text("w"), tensor((3000,), (1,), 3000)), {"0": noise.numpy().tobytes()}, method=zipfile.ZIP_DEFLATED
    )
    content = read_weights(saved(tmp_path, data)).content
    assert isinstance(content, dict)
    assert torch.equal(content["w"], noise)
    bomb = archive(dictionary(text("w"), tensor((10**7,), (1,), 10**7)), {"0": bytes(4 * 10**7)}, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="unpacks to"):
        read_weights(saved(tmp_path, bomb))


# safetensors


def safe(header: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(begin: int, end: int, shape: list[int], kind: str = "F32") -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data",
    [
        safe({"w": entry(0, 8, [2])}, length=10**8),
        safe({"w": entry(0, 8, [2])}, length=2**63),
        safe({"w": entry(0, 4 * 10**12, [10**12])}),
        safe({"w": entry(0, 8, [2**62, 4])}),
        safe({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}),
        safe({"a": entry(0, 8, [2]), "b": entry(4, 8, [1])}),
        safe({"a": entry(4, 8, [1])}),
        safe({"a": entry(8, 0, [2])}),
        safe({"a": entry(0, 8, [-2])}),
        safe(b"{" * 100_000),
        safe(b'{"a":' * 10_000 + b"}" * 10_000),
        safe({"w": entry(0, 8, [2])}, data=bytes(9)),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError):
        checkpoints.load(saved(tmp_path, data, "a.safetensors"))


def test_a_file_of_holes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(safe({"w": entry(0, 2**40, [2**38])}, data=b""))
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="expected at most"):
        checkpoints.load(path)
    os.truncate(path, 2**34)
    if 0 < path.stat().st_blocks * 512 * 64 < 2**34:
        with pytest.raises(CheckpointError, match="of which only"):
            checkpoints.load(path)


# Networks that compute nothing


@pytest.mark.parametrize(("name", "value"), [("running_var", -1.0), ("weight", 3e38)])
def test_finite_weights_with_an_infinite_output(tmp_path: Path, name: str, value: float) -> None:
    state = {
        key: torch.full_like(tensor, value if key.endswith(name) else 0.5)
        for key, tensor in build_dncnn(channels=1, depth=4, width=3, batchnorm=True).state_dict().items()
    }
    with pytest.raises(CheckpointError, match="output is NaN or infinite"):
        checkpoints.load(saved(tmp_path, torch_bytes(state)))
