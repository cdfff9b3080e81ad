"""What a stranger's ONNX file, picture, plan or file name can try: reach other files, exhaust memory, fool who reads."""

from __future__ import annotations

import json
import lzma
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import tifffile
import torch
from hostile import NAME_ESCAPES, archive, called, convolution, dictionary, integer, tensor, text, torch_bytes
from onnx import TensorProto, helper
from PIL import Image
from scipy.io import savemat

from qcompress import plans, slim_folder
from qcompress.architectures.dncnn import build_dncnn
from qcompress.cli.main import main
from qcompress.data import mat_file, validation_mat
from qcompress.data.files import read_image
from qcompress.data.mat_file import MatFileError
from qcompress.data.unpacking import count_jpeg_scans
from qcompress.errors import DataError, InputError, PlanError
from qcompress.exporters import external_data
from qcompress.exporters.runtime import open_bytes, open_onnx
from qcompress.plans import Plan, PlanCut, PlanGroup, Source
from qcompress.visible import visible, visible_json

# ONNX


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


def claim(**fields: Any) -> onnx.ModelProto:
    model = convolution()
    model.graph.initializer.append(TensorProto(name="claim", data_type=TensorProto.FLOAT, **fields))
    return model


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


# Pictures


def tiff(width: int, height: int, compression: int, strip: bytes, samples: int = 1) -> bytes:
    """A TIFF of one strip of 8-bit samples."""
    tags = [
        (256, width),
        (257, height),
        (258, 8),
        (259, compression),
        (262, 1),
        (273, 8),
        (277, samples),
        (278, height),
        (279, len(strip)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


def bmp(width: int, body: bytes) -> bytes:
    """A run-length encoded BMP of one row."""
    head = struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + struct.pack(
        "<IiiHHIIiiII", 40, width, 1, 1, 8, 1, len(body), 0, 0, 256, 0
    )
    return b"BM" + head + bytes(1024) + body


def flat_png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes((side + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.png", EPS, "cannot identify"),
        ("a.jpg", b"GIF89a" + bytes(50), "cannot identify"),
        ("a.png", flat_png(9000), "which no photograph is"),
        ("a.bmp", bmp(80_000_000, b"\0\2\0\xff" * 4 + b"\0\1"), "which no photograph is"),
        ("a.bmp", bmp(4_000_000, b"\0\2\0\xff" * 4 + b"\0\1"), "run-length"),
        ("a.tif", tiff(16, 16, 8, zlib.compress(bytes(10**7), 9)), "unpacks to more than 256 bytes"),
        ("a.tif", tiff(16, 16, 34925, lzma.compress(bytes(10**7))), "unpacks to more than 256 bytes"),
        ("a.png", tiff(16, 16, 8, zlib.compress(bytes(10**7), 9)), "unpacks to more than 256 bytes"),
        ("a.tif", tiff(9000, 9000, 1, bytes(100), samples=60), "which no photograph is"),
        ("a.tif", tiff(9000, 9000, 8, zlib.compress(bytes(100))), "which no photograph is"),
    ],
)
def test_pictures_that_are_none(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says):
        read_image(tmp_path / name)


def test_compressed_tiffs_of_any_layout_are_still_read(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for options in ({"rowsperstrip": 7}, {"tile": (16, 32)}, {"rowsperstrip": 50, "planarconfig": "separate"}):
        for compression in ("zlib", "lzma"):
            given = samples.transpose(2, 0, 1) if "planarconfig" in options else samples
            tifffile.imwrite(tmp_path / "a.tif", given, photometric="rgb", compression=compression, **options)
            np.testing.assert_array_equal(
                read_image(tmp_path / "a.tif"), samples.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            )


def test_a_tiff_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OME-TIFF names other files in its XML, and tifffile goes to fetch them."""
    tifffile.imwrite(tmp_path / "other.tif", np.zeros((8, 8), np.uint8))
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="8" SizeY="8" SizeC="1" SizeZ="2" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" FirstZ="0" PlaneCount="1"/>'
        '<TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="other.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 8), 9, np.uint8), description=xml, metadata=None)
    opened: list[str] = []
    original = tifffile.FileHandle.open

    def watched(handle: tifffile.FileHandle) -> None:
        original(handle)
        opened.append(handle.name)

    monkeypatch.setattr(tifffile.FileHandle, "open", watched)
    assert read_image(tmp_path / "a.tif").shape == (1, 8, 8)
    assert set(opened) == {"a.tif"}


def test_scans_of_a_jpeg_are_counted_and_bounded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for progressive, scans in ((False, 1), (True, 10)):
        Image.fromarray(pixels).save(tmp_path / "a.jpg", progressive=progressive, exif=b"Exif\0\0" + b"\xff\xda\xff\xd9" * 50)
        data = (tmp_path / "a.jpg").read_bytes()
        assert count_jpeg_scans(data) == scans
        read_image(tmp_path / "a.jpg")
    last = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + last * 500 + b"\xff\xd9")
    with pytest.raises(DataError, match="a JPEG of 510 scans"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_mat_file_by_hand(tmp_path: Path, compressed: bool, order: str) -> None:
    """Against the format's description: big-endian files and short elements are what savemat does not write."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(f"{order}II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")

    values = np.arange(24, dtype=np.uint8).reshape(2, 1, 2, 2, 3)
    name = struct.pack(f"{order}HH" if order == ">" else "<HH", *((2, 1) if order == ">" else (1, 2))) + b"gt\0\0"
    inner = element(6, struct.pack(f"{order}II", 9, 0)) + element(5, struct.pack(f"{order}5i", *values.shape)) + name
    matrix = element(14, inner + element(2, values.tobytes(order="F")))
    packed = zlib.compress(matrix)
    head = b"MATLAB".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI")
    (tmp_path / "gt.mat").write_bytes(head + (struct.pack(f"{order}II", 15, len(packed)) + packed if compressed else matrix))
    assert mat_file.shape_of(tmp_path / "gt.mat", "gt") == values.shape
    np.testing.assert_array_equal(mat_file.read_bytes_array(tmp_path / "gt.mat", "gt", 24), values)
    with pytest.raises(MatFileError, match="takes 24 bytes"):
        mat_file.read_bytes_array(tmp_path / "gt.mat", "gt", 23)


def test_mat_files_agree_with_scipy_and_other_variables_are_passed_over(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    others = {"a": "text", "b": 2.5, "c": {"d": 1}, "e": np.zeros((2, 2), bool), "z": np.ones((3, 3), complex)}
    for compressed in (False, True):
        savemat(tmp_path / "gt.mat", others | {"gt": values}, do_compression=compressed)
        np.testing.assert_array_equal(mat_file.read_bytes_array(tmp_path / "gt.mat", "gt", 10**6), values)
        for name in (*others, "none"):
            with pytest.raises(MatFileError):
                mat_file.shape_of(tmp_path / "gt.mat", name)


def test_a_pipe_called_mat_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "noisy.mat")
    (tmp_path / "gt.mat").write_bytes(b"x")
    with pytest.raises(DataError, match="expected one noisy and one clean"):
        validation_mat.find_pair(tmp_path)


# Plans and slim folders


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "tool": "qcompress",
        "checkpoint": Source(
            file="a.pt", sha256="0" * 64, architecture="dncnn", arguments={"channels": 1, "depth": 3, "width": 4}
        ),
        "groups": {"model.0": PlanGroup(size=4, pruned=())},
        "cuts": {"model.0": PlanCut(kept_out=(0, 1, 2, 3), kept_in=None)},
        "example_shape": (1, 1, 32, 32),
        "budget": "filters",
        "sparsity": 0.0,
        "objective": "hybrid",
        "backend": "neal",
        "seed": 0,
    }
    return Plan(**fields | changes)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\u202eb", "a\u200bb", "\x9b31m", "a\u2028b", "a\nb"])
@pytest.mark.parametrize("place", ["group", "cut", "file", "word"])
def test_names_in_a_plan_are_printable(tmp_path: Path, name: str, place: str) -> None:
    value = json.loads(plan().to_json())
    if place == "group":
        value["groups"] = {name: value["groups"]["model.0"]}
    elif place == "cut":
        value["cuts"] = {name: value["cuts"]["model.0"]}
    elif place == "file":
        value["checkpoint"]["file"] = name
    else:
        value["objective"] = name
    (tmp_path / "plan.json").write_text(json.dumps(value))
    with pytest.raises(PlanError, match="printable") as caught:
        plans.read(tmp_path / "plan.json")
    assert visible(caught.value.message).isprintable()


def test_a_plan_that_claims_a_huge_network_takes_no_memory(tmp_path: Path) -> None:
    """Its four gigabytes are compared with the weights that came along before they are made."""
    huge = Source(file="a.pt", sha256="0" * 64, architecture="dncnn", arguments={"channels": 1, "depth": 6, "width": 5000})
    claimed = plan(checkpoint=huge, groups={}, cuts={})
    weights = safetensors.torch.save({"model.0.weight": torch.ones(1)}, {"plan_sha256": claimed.sha256})
    (tmp_path / "plan.json").write_text(claimed.to_json())
    (tmp_path / "model.safetensors").write_bytes(weights)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PlanError, match="does not fit"):
        slim_folder.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_a_slim_folder_runs_no_code_that_its_plan_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("import pathlib\npathlib.Path('proof').touch()\n")
    monkeypatch.chdir(tmp_path)
    own = plan(checkpoint=Source(file="a.pt", sha256="0" * 64, architecture="stranger:build", arguments={}))
    (tmp_path / "plan.json").write_text(own.to_json())
    weights = safetensors.torch.save({"model.0.weight": torch.ones(1)}, {"plan_sha256": own.sha256})
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(PlanError, match="not run unasked"):
        slim_folder.load(tmp_path)
    assert not (tmp_path / "proof").exists()


# What people see


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "\x9b31m", "a\rb", "\u202e", "\u2066", "\ud800", "\u200b", "\x00", "\x7f", "\n", "\U000e0001"]
)
def test_what_is_shown_moves_nothing(text: str) -> None:
    assert visible(f"a{text}b").isprintable()
    shown = visible_json(json.dumps({"a": f"a{text}b"}, ensure_ascii=False))
    assert json.loads(shown) == {"a": f"a{text}b"}
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    "arguments", ["[" * 50_000, '{"a":' * 3000 + "1" + "}" * 3000, '{"container": "\\ud800"}', '{"width": 1' + "0" * 5000 + "}"]
)
def test_arguments_that_are_no_json_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    torch.save(build_dncnn(channels=1, depth=3, width=3).state_dict(), tmp_path / "a.pt")
    assert main(["inspect", str(tmp_path / "a.pt"), "--arch-args", arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


HOSTILE: dict[str, bytes] = {
    "pickle.pt": archive(dictionary(text("w"), called("os.system", text("true")))),
    "bomb.pt": archive(dictionary(text("w"), called("builtins.bytearray", integer(10**12)))),
    "wide.pt": archive(dictionary(text("w"), tensor((10**12,), (0,), 1)), {"0": bytes(4)}),
    "names.pt": torch_bytes({NAME_ESCAPES: torch.zeros(1)}),
    "text.onnx": b"\x08\x07" + b"x" * 99,
    "outside.onnx": convolution(location="../../etc/passwd").SerializeToString(),
    "claim.onnx": claim(dims=[10**10]).SerializeToString(),
    "plan.json": b"[" * 100_000,
    os.fsdecode(b"\xff\x1b[31m.pt"): b"no weights \xff\xfe" * 99,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["inspect", "prune", "apply", "export", "verify"])
@pytest.mark.parametrize("as_json", [False, True])
def test_every_command_answers_a_hostile_file_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, command: str, as_json: bool
) -> None:
    monkeypatch.delenv("QCOMPRESS_DEBUG", raising=False)
    (tmp_path / name).write_bytes(HOSTILE[name])
    more = {"apply": [str(tmp_path / name)], "prune": ["--out", str(tmp_path / "out")]}.get(command, [])
    code = main([command, str(tmp_path / name), *more, *(["--json"] if as_json else [])])
    shown = capsys.readouterr()
    assert code == 3, shown
    assert not (tmp_path / "out").exists()
    if as_json:
        assert json.loads(shown.out)["error"]["exit_code"] == 3
    else:
        lines = shown.err.splitlines()
        assert lines[0].startswith("error: ")
        assert len(lines) <= 2
    assert "Traceback" not in shown.err
    assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())


@pytest.mark.slow
def test_bombs_stay_within_the_memory_that_is_promised(tmp_path: Path) -> None:
    """In a process that may take 1.5 GB more than it has after its imports: every file here is below 2 MB."""
    (tmp_path / "again.pt").write_bytes(archive(b"\x80\x02]" + b"(K\x01e" * 300_000 + b"."))
    (tmp_path / "flat.png").write_bytes(flat_png(9400))
    (tmp_path / "strip.tif").write_bytes(tiff(16, 16, 8, zlib.compress(bytes(10**9), 9)))
    (tmp_path / "rows.bmp").write_bytes(bmp(5_000_000, b"\0\2\0\xff" * 400 + b"\0\1"))
    (tmp_path / "fold.onnx").write_bytes(folding(250_000_000).SerializeToString())
    for name in ("bomb.pt", "wide.pt", "claim.onnx"):
        (tmp_path / name).write_bytes(HOSTILE[name])
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=250, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    peaks = json.loads(found.stdout)
    assert set(peaks) == {path.name for path in tmp_path.iterdir()}
    assert max(peaks.values()) < 600, peaks


def folding(size: int) -> onnx.ModelProto:
    """A network that adds the first of `size` zeros, which onnxruntime would make when it opens the file."""
    model = convolution()
    numbers = {"size": [size], "begin": [0], "end": [1]}
    model.graph.initializer.extend(helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in numbers.items())
    nodes = [("ConstantOfShape", ["size"], "zeros"), ("Slice", ["zeros", "begin", "end"], "zero")]
    model.graph.node[0].output[0] = "plain"
    model.graph.node.extend(helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes)
    model.graph.node.append(helper.make_node("Add", ["plain", "zero"], ["output"]))
    return model


CHILD = """
import json, pathlib, resource, sys
import torch, tifffile, onnxruntime
from qcompress import checkpoints
from qcompress.data.files import read_image
from qcompress.errors import QCompressError
from qcompress.exporters.runtime import open_onnx
def used(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) // 1024
limit = (used("VmSize") + 1500) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
peaks = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    before = used("VmHWM")
    try:
        {".pt": checkpoints.load, ".onnx": open_onnx}.get(path.suffix, read_image)(path)
    except QCompressError:
        pass
    peaks[path.name] = used("VmHWM") - before
print(json.dumps(peaks))
"""
