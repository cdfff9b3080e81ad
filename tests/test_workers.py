"""Workers that are processes: the same bits as without them, whatever happens to them."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import lively
from loads import (
    EndsTheProcess,
    crew,
    ends_the_worker,
    measured_by,
    outcome,
    refuses,
    same,
    speaks_no_pickle,
    tasks_of,
    waits,
    zoo_load,
)
from torch import nn

from qcompress import pipeline
from qcompress.architectures.half_unet import HalfUNet
from qcompress.cli.main import main
from qcompress.errors import DataError, UsageError, WorkerError
from qcompress.metrics import METRICS
from qcompress.progress import SILENT
from qcompress.settings import Settings
from qcompress.workers.bench import images_per_task
from qcompress.workers.contract import Candidate
from qcompress.workers.hiring import Wanted

FAST = ["--noise", "gaussian:25", "--refine-evals", "6", "--size", "32", "--recover", "none"]


def test_scores_and_refinement_are_the_same_for_every_number_of_workers() -> None:
    """In one thread; without workers torch takes as many as it likes, here one as well."""
    load = zoo_load()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with crew(load) as nobody:
            expected = outcome(load, nobody)
    finally:
        torch.set_num_threads(before)
    assert expected[1].accepted > 0
    for number in (1, 2, 3):
        with crew(load, workers=number) as workers:
            assert same(outcome(load, workers), expected), number
        assert torch.get_num_threads() == before
        assert not multiprocessing.active_children()


@pytest.mark.slow
def test_the_reference_network_too() -> None:
    job = pipeline.prepare(Path("reference"), Settings(), SILENT, size=64)
    crops = job.calibration(), job.selection()
    load = replace(job._load(), calibration=type(crops[0])(crops[0].inputs[:12], crops[0].targets[:12]))
    with crew(load, workers=1) as one:
        expected = outcome(load, one, 4)
    for number in (2, 3):
        with crew(load, workers=number) as workers:
            assert same(outcome(load, workers, 4), expected), number


def test_the_division_into_tasks_depends_on_the_images_alone() -> None:
    load = zoo_load()
    assert images_per_task(load.selection) == 16  # small ones
    sides = {
        side: images_per_task(type(load.selection)(torch.zeros(1, 3, side, side), torch.zeros(1))) for side in (48, 96, 512)
    }
    assert sides == {48: 14, 96: 4, 512: 4}


def test_a_worker_that_is_killed_costs_nothing_but_time() -> None:
    load = measured_by(zoo_load(), waits)
    tasks = [task for task in tasks_of(load) if isinstance(task, Candidate)]
    with crew(load, workers=1) as one:
        expected = list(one.run(tasks))
    said: list[str] = []
    with crew(load, said, workers=2) as two:
        run = two.run(tasks)
        found = [next(run)]
        victim = multiprocessing.active_children()[0].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        found += run
    assert same(found, expected)
    assert len(said) == 1
    assert "was lost (killed by SIGKILL" in said[0]


def test_a_task_that_kills_its_workers_is_given_up() -> None:
    load = measured_by(zoo_load(), ends_the_worker)
    with (
        crew(load, workers=2) as two,
        pytest.raises(WorkerError, match=r"3 workers in a row were lost with the same task, the last: killed by SIGKILL"),
    ):
        list(two.run(tasks_of(load)[1:2]))
    assert not multiprocessing.active_children()


def test_an_error_in_a_worker_is_raised_here_as_it_is() -> None:
    load = measured_by(zoo_load(), refuses)
    with crew(load, workers=2) as two, pytest.raises(DataError, match="these images are of no use") as caught:
        list(two.run(tasks_of(load)))
    assert caught.value.hint == "take others"
    assert "in refuses" in caught.value.__notes__[0]  # where it was raised


def test_an_error_that_cannot_be_pickled_is_told() -> None:
    load = measured_by(zoo_load(), speaks_no_pickle)
    with crew(load, workers=2) as two, pytest.raises(WorkerError, match="a worker raised Unspeakable: 1 and 2"):
        list(two.run(tasks_of(load)))


def test_a_worker_that_dies_at_its_start_is_one_clear_line() -> None:
    load = measured_by(zoo_load(), EndsTheProcess())
    with (
        crew(load, workers=2) as two,
        pytest.raises(WorkerError, match=r"worker \d ended at its start: exit code 3$") as caught,
    ):
        list(two.run(tasks_of(load)))
    assert caught.value.hint is not None
    assert not multiprocessing.active_children()


def test_a_network_without_a_name_cannot_be_sent() -> None:
    load = zoo_load()

    class Local(nn.Module):
        pass

    with (
        pytest.raises(UsageError, match="the network cannot be sent to workers") as caught,
        crew(replace(load, model=Local()), workers=2),
    ):
        pass
    assert caught.value.hint is not None
    assert "at the top of a module" in caught.value.hint


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_sent(name: str) -> None:
    for scale in (1, 2):
        found = METRICS[name](scale)
        again = pickle.loads(pickle.dumps(found))
        assert (again.name, again.unit, again.tasks) == (found.name, found.unit, found.tasks)
        output = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        if "denoising" in found.tasks:
            assert torch.equal(again.per_image(output, output / 2), found.per_image(output, output / 2))


def test_what_cannot_be_is_refused_before_work_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="workers must be at least 1, got 0"):
        Settings(workers=0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UsageError, match="--device cuda:1: no CUDA device here"):
        Wanted(device="cuda:1").check()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    Wanted(2, device="cuda").check()
    Wanted(1, device="cuda:1").check()
    with pytest.raises(UsageError, match="3 workers for 2 GPUs: on cuda each worker has a GPU of its own"):
        Wanted(3, device="cuda").check()
    with pytest.raises(UsageError, match="workers compute on cpu or cuda, got --device cuda:1"):
        Wanted(2, device="cuda:1").check()
    assert main(["prune", "reference", "--workers", "2", "--device", "cuda:1"]) == 2
    assert "got --device cuda:1" in capsys.readouterr().err


def test_ray_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--ray auto: Ray is not installed here") as caught:
        Wanted(ray="auto").check()
    assert caught.value.hint == "pip install 'qcompress[ray]'"


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.channels, self.stride = 3, 1
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        return x + self.c(torch.relu(self.b(torch.relu(self.a(x)))))

def psnr(output, target):
    return -10 * torch.log10((output - target).square().mean((1, 2, 3)))
"""


@pytest.mark.slow
def test_a_network_and_a_metric_of_the_users_from_the_current_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workers_own_network.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(OWN, scope)
    torch.save(lively(scope["Net"]()).state_dict(), "own.pt")
    named = ["--arch", "workers_own_network:Net", "--metric", "workers_own_network:psnr", "--align", "1", "-q"]
    for out, workers in (("one", "1"), ("two", "2")):
        arguments = ["prune", "own.pt", "--data", str(images), "-o", out, *FAST, *named, "--workers", workers]
        assert main(arguments) == 0
    one, two = (json.loads(Path(out, "report.json").read_text()) for out in ("one", "two"))
    assert one["refine"] == two["refine"]
    assert Path("one/plan.json").read_bytes() == Path("two/plan.json").read_bytes()
    assert Path("one/model.safetensors").read_bytes() == Path("two/model.safetensors").read_bytes()


@pytest.mark.slow
def test_formulate_with_workers(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    for out, workers in (("one.bqm", "1"), ("two.bqm", "2")):
        arguments = ["formulate", str(checkpoint), "--data", str(images), "-o", str(tmp_path / out), "-q", *FAST[:2]]
        assert main([*arguments, "--size", "32", "--workers", workers]) == 0
    assert (tmp_path / "one.bqm").read_bytes() == (tmp_path / "two.bqm").read_bytes()
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert one["provenance"] == two["provenance"]


def alive_in(group: int) -> list[str]:
    """The processes of a group that are not just waiting to be buried."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            name, _, rest = stat.read_text().rpartition(") ")
            state, _, of = rest.split()[:3]
            if int(of) == group and state != "Z":
                found.append(name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
def test_ctrl_c_at_the_terminal_keeps_the_best_and_ends_the_workers(images: Path, tmp_path: Path) -> None:
    """SIGINT to the whole group of processes, as a terminal sends it."""
    torch.save(lively(HalfUNet(3, 48, 2, ghost=False)).state_dict(), tmp_path / "wide.pt")
    arguments = [
        "prune",
        str(tmp_path / "wide.pt"),
        "--data",
        str(images),
        "-o",
        str(tmp_path / "o"),
        *FAST[:2],
        "--size",
        "32",
    ]
    command = [
        sys.executable,
        "-m",
        "qcompress.cli.main",
        *arguments,
        "--refine-evals",
        "100000",
        "--align",
        "1",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "capacity search" in line:  # the stage before has ended
            break
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, rest = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:  # Python drops an interrupt that falls into a destructor or a C callback
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert json.loads((tmp_path / "o" / "report.json").read_text())["status"] == "interrupted"
    for _ in range(100):  # the last ones see the end of the pipe to their parent
        if not alive_in(process.pid):
            break
        time.sleep(0.1)
    assert not alive_in(process.pid)


def test_values_are_those_of_a_plain_call() -> None:
    load = zoo_load()
    tasks = [task for task in tasks_of(load) if isinstance(task, Candidate)]
    with crew(load, workers=1) as one:
        values = list(one.run(tasks))
    assert all(len(value) == len(task.images) for value, task in zip(values, tasks, strict=True))
    assert all(np.isfinite(value).all() for value in values)
