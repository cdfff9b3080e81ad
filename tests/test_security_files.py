"""What a stranger's plan, slim folder or file name can try, and what every command says of hostile files."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hostile import (
    NAME_ESCAPES,
    archive,
    bmp,
    called,
    claim,
    convolution,
    dictionary,
    flat_png,
    folding,
    integer,
    tensor,
    text,
    tiff,
    torch_bytes,
)

from qcompress import plans, slim_folder
from qcompress.architectures.dncnn import build_dncnn
from qcompress.cli.main import main
from qcompress.errors import PlanError
from qcompress.plans import Plan, PlanCut, PlanGroup, Source
from qcompress.visible import visible, visible_json

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
