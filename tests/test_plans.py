from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompress import plans
from qcompress.errors import OutputError, PlanError, QCompressError
from qcompress.files import write_aside, write_bytes, write_text
from qcompress.groups import Cut, Group, Groups, Layer, Member
from qcompress.plans import Plan, Source
from qcompress.selection import Selection, UnitSpace


def channels(count: int) -> tuple[tuple[int, ...], ...]:
    return tuple((number,) for number in range(count))


GROUPS = Groups(
    groups=(
        Group("b", (Member("b", "out", channels(4)), Member("a", "in", channels(4)))),
        Group("a", (Member("a", "out", channels(3)), Member("end", "in", channels(3)))),
    ),
    layers=(
        Layer("b", "conv", 1, 4, 9, 64, True),
        Layer("a", "conv", 4, 3, 9, 64, True),
        Layer("end", "conv", 3, 1, 9, 64, True),
    ),
    kept_whole=(),
    example_shape=(1, 1, 8, 8),
)
SOURCE = Source(file="net.pt", sha256="ab" * 32, architecture="dncnn", arguments={"depth": 3, "bias": [True, False, True]})


def make(*pruned: int) -> Plan:
    selection = Selection(GROUPS.space, pruned)
    return Plan.of(SOURCE, GROUPS, selection, budget="filters", sparsity=0.5, objective="hybrid", backend="neal", seed=7)


def test_cuts_and_selection_come_back(tmp_path: Path) -> None:
    plan = make(1, 3, 4)
    plans.write(plan, tmp_path / "deep" / "plan.json")
    again = plans.read(tmp_path / "deep" / "plan.json")
    assert again == plan
    assert again.sha256 == plan.sha256
    assert list(again.groups) == ["b", "a"]
    assert again.layer_cuts == {"b": Cut((0, 2), None), "a": Cut((1, 2), (0, 2)), "end": Cut(None, (1, 2))}
    assert again.selection(GROUPS.space).pruned == (1, 3, 4)


def test_the_file_is_readable_and_stable() -> None:
    text = make(1, 3, 4).to_json()
    data = json.loads(text)
    assert data["schema"] == 1
    assert data["cuts"]["a"] == {"out": [1, 2], "in": [0, 2]}
    assert '"pruned": [ 1, 3 ]' in text or '"pruned": [1, 3]' in text
    assert text == make(1, 3, 4).to_json()


def test_the_hash_is_of_the_content_not_of_the_layout(tmp_path: Path) -> None:
    plan = make(1, 3, 4)
    shuffled = dict(reversed(json.loads(plan.to_json()).items()))
    write_text(tmp_path / "plan.json", json.dumps(shuffled))
    assert plans.read(tmp_path / "plan.json").sha256 == plan.sha256
    assert make(1, 2, 4).sha256 != plan.sha256


@pytest.mark.parametrize(
    "space",
    [
        UnitSpace.of([("b", 4)]),
        UnitSpace.of([("b", 4), ("a", 5)]),
        UnitSpace.of([("b", 4), ("c", 3)]),
        UnitSpace.of([("b", 4), ("a", 3)], floor=4),
    ],
)
def test_selection_in_another_space(space: UnitSpace) -> None:
    with pytest.raises(PlanError):
        make(1, 3, 4).selection(space)


def test_selection_follows_the_order_of_the_space() -> None:
    turned = UnitSpace.of([("a", 3), ("b", 4)])
    assert make(1, 3, 4).selection(turned).pruned == (0, 4, 6)


def change(*path: str | int, to: Any) -> str:
    data = json.loads(make(1, 3, 4).to_json())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1, 2]", "not a plan"),
        ('{"a": 1}', "no schema"),
        ("[" * 100_000, "not JSON"),
        (change("schema", to=2), "later version"),
        (change("schema", to=10**400), "later version"),
        (change("schema", to="1"), "schema"),
        (change("seed", to=-1), "seed"),
        (change("seed", to=True), "seed"),
        (change("sparsity", to=2), "sparsity"),
        (change("sparsity", to=float("nan")), "not JSON"),
        (change("checkpoint", "sha256", to="xyz"), "sha256"),
        (change("checkpoint", "file", to="../../etc/passwd"), "file"),
        (change("groups", "a", "pruned", to=[3]), "outside 0..2"),
        (change("groups", "a", "pruned", to=[1, 0]), "ascending"),
        (change("groups", "a", "size", to=10**12), "size"),
        (change("cuts", "a", "out", to=[]), "cuts"),
        (change("cuts", "a", "out", to=[0, 0]), "ascending"),
        (change("cuts", "a", "out", to=[-1]), "cuts"),
        (change("example_shape", to=[]), "example_shape"),
        (change("surprise", to=1), "surprise"),
        (change("sur\nprise", to=1), r"sur.nprise"),
        (change("cuts", "a\x1b[31m", to={"out": None, "in": None}), "cuts"),
    ],
)
def test_corrupt(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=says) as caught:
        plans.read(path)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_not_a_file_missing_and_too_large(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(17 * 2**20)
    for path, says in ((tmp_path, "not a file"), (tmp_path / "none", "No such file"), (large, "larger than 16 MiB")):
        with pytest.raises(PlanError, match=says):
            plans.read(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 2000), st.booleans())
def test_any_bytes_are_a_plan_or_an_error_of_ours(tmp_path: Path, noise: bytes, place: int, inside: bool) -> None:
    whole = make(1, 3, 4).to_json().encode()
    data = whole[:place] + noise + whole[place + len(noise) :] if inside else noise
    path = tmp_path / "plan.json"
    path.write_bytes(data)
    try:
        plan = plans.read(path)
    except QCompressError as error:
        assert "\n" not in error.message
    else:
        assert plan.sha256 == Plan.model_validate_json(plan.to_json()).sha256


# Writing aside


def test_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OutputError("no")])
def test_an_interrupted_block_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with write_aside(path) as aside:
            aside.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


@pytest.fixture
def small_files_only() -> Iterator[int]:
    """Files may not grow beyond some bytes: how a full disk looks to a writer."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room(tmp_path: Path, small_files_only: int) -> None:
    with pytest.raises(OutputError, match="larger than allowed") as caught:
        write_bytes(tmp_path / "a.bin", bytes(10 * small_files_only))
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "no permission"), (errno.EIO, "Input/output error")]
)
def test_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=says):
        write_bytes(tmp_path / "a.bin", b"x")
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path, says in (
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "a.bin", "is a file, not a folder"),
        (Path(os.devnull), "not a regular file"),
        (tmp_path / ("n" * 300), "too long"),
    ):
        with pytest.raises(OutputError, match=says):
            write_bytes(path, b"x")
    assert Path(os.devnull).is_char_device()


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"x"
