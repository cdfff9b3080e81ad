"""Workers that are actors of a Ray cluster, here of several nodes on one machine. Needs the extra `ray`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loads import crew, measured_by, outcome, refuses, same, tasks_of, waits, zoo_load
from torch import nn

from qcompress import tracing
from qcompress.errors import DataError, UsageError, WorkerError
from qcompress.workers.contract import Candidate
from qcompress.workers.hiring import Wanted

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, with a CPU each."""
    try:
        utilities = importlib.import_module("ray.cluster_utils")
    except ImportError:
        if os.environ.get("QCOMPRESS_EXTRAS"):  # set where it is installed to be tested: `make extras`
            raise
        pytest.skip("ray is not installed")
    nodes = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.mark.slow
def test_actors_find_the_same(cluster: Any) -> None:
    load = zoo_load()
    with crew(load, workers=1) as one:
        expected = outcome(load, one)
    said: list[str] = []
    with crew(load, said, ray=cluster.address) as actors:  # as many as there are CPUs
        assert same(outcome(load, actors), expected)
    assert said == []


@pytest.mark.slow
def test_an_error_in_an_actor_is_raised_here_as_it_is(cluster: Any) -> None:
    load = measured_by(zoo_load(), refuses)
    with crew(load, ray=cluster.address, workers=1) as actor, pytest.raises(DataError, match="of no use") as caught:
        list(actor.run(tasks_of(load)))
    assert caught.value.hint == "take others"


@pytest.mark.slow
def test_the_users_own_network_goes_along(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module lies in the current folder, where no actor looks."""
    (tmp_path / "only_here.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, inner):\n        super().__init__()\n"
        "        self.inner = inner\n\n    def forward(self, x):\n        return self.inner(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as path:
        path.syspath_prepend(tmp_path)
        module = importlib.import_module("only_here")
    load = zoo_load()
    wrapped: nn.Module = module.Net(load.model)
    own = replace(load, model=wrapped, groups=tracing.trace(wrapped, load.selection.inputs[:2]))
    try:
        with crew(own, workers=1) as one, crew(own, ray=cluster.address, workers=1) as actor:
            assert same(list(actor.run(tasks_of(own))), list(one.run(tasks_of(own))))
    finally:
        del sys.modules["only_here"]


@pytest.mark.slow
def test_what_the_cluster_cannot_give_is_refused(cluster: Any) -> None:
    with (
        pytest.raises(UsageError, match="3 workers, but the Ray cluster has 2 CPUs"),
        crew(zoo_load(), ray=cluster.address, workers=3),
    ):
        pass
    with (
        pytest.raises(UsageError, match="1 workers, but the Ray cluster has 0 GPUs"),
        crew(zoo_load(), ray=cluster.address, device="cuda"),
    ):
        pass
    with pytest.raises(UsageError, match="the Ray Client is not supported"):
        Wanted(ray="ray://somewhere:10001").check()
    for address in ("nowhere", "127.0.0.1:1"):
        with pytest.raises(WorkerError, match=f"--ray {address}: no cluster there") as caught, crew(zoo_load(), ray=address):
            pass
        assert "\n" not in caught.value.message


@pytest.mark.slow
def test_a_node_that_is_lost_costs_nothing_but_time(cluster: Any) -> None:
    load = measured_by(zoo_load(), waits)
    tasks = [task for task in tasks_of(load) if isinstance(task, Candidate)]
    with crew(load, workers=1) as one:
        expected = list(one.run(tasks))
    third = cluster.add_node(num_cpus=1)
    said: list[str] = []
    with crew(load, said, ray=cluster.address, workers=3) as actors:
        list(actors.run(tasks))  # until all have begun
        run = actors.run(tasks)
        found = [next(run)]
        cluster.remove_node(third, allow_graceful=False)
        found += run
        found += actors.run(tasks)
    assert same(found, expected * 2)
    assert len(said) == 1
    assert "was lost" in said[0]
