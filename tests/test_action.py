"""action.yml, executed as GitHub would: what passes, what fails, what is undecided, and inputs that would be code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from github_runner import Expression, Ran, Runner, filled

ROOT = Path(__file__).parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
BRIEF = "--noise gaussian:25 --size 32 --refine-evals 0 --recover none --no-crops --quiet"
KNOWN = {  # inputs of the actions that are used, from their own action.yml
    "actions/setup-python": {"python-version"},
    "actions/cache/restore": {"path", "key", "restore-keys"},
    "actions/cache/save": {"path", "key"},
    "actions/upload-artifact": {"name", "path"},
}
HOSTILE = """'"; touch pwned; $(touch pwned) `touch pwned` ${{ inputs.out }} | & > pwned --trust-pickle"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def stand_in(path: Path, code: str) -> None:
    """A program in Python at `path`."""
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{code}\n", encoding="utf-8")
    path.chmod(0o755)


def runner(folder: Path, qcompress: str | None = None) -> Runner:
    """A fresh runner whose pip only notes what it is asked for; `qcompress` is code that takes the command's place."""
    path, files = folder / "bin", folder / "files"
    workspace = folder / "the work space"
    for place in (path, files, workspace):
        place.mkdir(parents=True, exist_ok=True)
    noted, real = str(folder / "pip.jsonl"), sys.executable
    stand_in(
        path / "python",
        f"if sys.argv[1:3] == ['-m', 'pip']:\n    print(json.dumps(sys.argv[3:]), file=open({noted!r}, 'a'))\n"
        f"else:\n    os.execv({real!r}, [{real!r}, *sys.argv[1:]])",
    )
    stand_in(path / "qcompress", qcompress or "from qcompress.cli.main import main\nsys.exit(main())")
    return Runner(ACTION, ROOT, workspace, files, path, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def place(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs below work: with a cache that the first one fills, and names that a careless script trips over."""
    folder = tmp_path_factory.mktemp("github")
    work = runner(folder).workspace
    (work / "models").mkdir()
    shutil.copy(checkpoint, work / "models" / """it's "the" $best one.pt""")
    shutil.copytree(images, work / "my images")
    return folder


def act(place: Path, qcompress: str | None = None, **inputs: str) -> Ran:
    for old in (place / "files").iterdir():
        old.unlink()
    common = {"checkpoint": """models/it's "the" $best one.pt""", "data": "my images", "arguments": BRIEF, "out": "slim out"}
    return runner(place, qcompress).run(**common | inputs)


@pytest.fixture(scope="module")
def passed(place: Path) -> Ran:
    """A run that meets its limit; it leaves a slim folder and a cache."""
    return act(place, max_size="4MB")


def test_expressions() -> None:
    names = {"inputs.a": "x", "steps.b-c.outcome": "success"}
    assert filled("${{ inputs.a }}-${{ 'it''s' }}", names, failed=False) == "x-it's"
    for text, value in {
        "always() && steps.b-c.outcome == 'success'": True,
        "success() || !(inputs.a != 'x')": True,
        "success() && inputs.a == 'x'": False,
        "failure()": True,
    }.items():
        assert bool(Expression(text, names, failed=True).value()) is value, text
    with pytest.raises(KeyError):
        filled("${{ inputs.unknown }}", names, failed=False)


def test_inputs_are_never_code(tmp_path: Path) -> None:
    noted = str(tmp_path / "noted.jsonl")
    run = runner(tmp_path, f"print(json.dumps(sys.argv[1:]), file=open({noted!r}, 'a'))")
    words = {name.replace("-", "_"): HOSTILE for name in ACTION["inputs"] if name != "arguments"}
    ran = run.run(**words, arguments="""--noise 'a b' "" '$(touch pwned)' `touch pwned`""")
    assert ran.code == 0, ran.log
    assert not list(tmp_path.rglob("pwned*"))
    pruned, checked = (json.loads(line) for line in Path(noted).read_text(encoding="utf-8").splitlines())
    given = ["--noise", "a b", "", "$(touch pwned)", "`touch", "pwned`"]
    options = [text for name in ("--out", "--cache", "--sparsity", "--data") for text in (name, HOSTILE)]
    assert pruned == ["prune", *options, *given, "--", HOSTILE]
    assert checked[-2:] == ["--", HOSTILE]
    assert checked.count(HOSTILE) == 7
    assert ran.outputs == {"outcome": "passed", "folder": HOSTILE}


def test_arguments_that_cannot_be_split_end_the_run(tmp_path: Path) -> None:
    ran = runner(tmp_path, "raise AssertionError").run(checkpoint="a.pt", arguments="--noise 'gaussian")
    assert ran.code == 1
    assert ran.log.strip() == "arguments: No closing quotation"
    assert ran.steps["check"] == "skipped"
    assert set(ran.used) == {"actions/setup-python", "actions/cache/restore"}


def test_an_empty_sparsity_leaves_room_for_another_target(tmp_path: Path) -> None:
    noted = str(tmp_path / "noted.jsonl")
    run = runner(tmp_path, f"print(json.dumps(sys.argv[1:]), file=open({noted!r}, 'a'))")
    run.run(checkpoint="a.pt", arguments="--target-size 100kB")
    pruned = json.loads(Path(noted).read_text(encoding="utf-8").splitlines()[0])
    assert pruned == ["prune", "--out", "slim", "--cache", ".qcompress-cache", "--target-size", "100kB", "--", "a.pt"]


@pytest.mark.parametrize(
    ("pruned", "fresh", "checked", "undecided", "code", "outcome"),
    [
        (4, True, 0, "report", 4, "failed"),
        (4, True, 6, "report", 4, "failed"),
        (6, True, 0, "report", 6, "undecided"),
        (6, True, 0, "fail", 4, "failed"),
        (6, True, 0, "pass", 0, "passed"),
        (6, True, 4, "pass", 4, "failed"),
        (4, False, 0, "report", 4, ""),
        (3, True, 0, "report", 3, ""),
    ],
)
def test_a_limit_among_the_arguments_comes_to_the_check(
    pruned: int, fresh: bool, checked: int, undecided: str, code: int, outcome: str, tmp_path: Path
) -> None:
    """Where there is a report of this run, and not just one of another."""
    write = "os.makedirs('slim', exist_ok=True); open('slim/report.json', 'w').close()"
    ran = runner(
        tmp_path,
        f"if sys.argv[1] == 'prune':\n    {write if fresh else 'pass'}\n    sys.exit({pruned})\nsys.exit({checked})",
    )
    (ran.workspace / "slim").mkdir()
    old = ran.workspace / "slim" / "report.json"
    old.touch()
    os.utime(old, (0, 0))
    done = ran.run(checkpoint="a.pt", arguments="--max-drop 0.1", undecided=undecided)
    assert (done.code, done.outputs["outcome"]) == (code, outcome), done.log
    assert (done.steps["check"] == "skipped") == (outcome == "")
    assert ("actions/upload-artifact" in done.used) == (outcome != "")
    assert ("among the arguments" in done.summary) == (checked != code and outcome != "")


def test_what_pip_is_asked_for_exists(tmp_path: Path) -> None:
    runner(tmp_path, "pass").run(checkpoint="a.pt")
    asked = [json.loads(line) for line in (tmp_path / "pip.jsonl").read_text(encoding="utf-8").splitlines()]
    help_text = subprocess.run([sys.executable, "-m", "pip", "install", "--help"], capture_output=True, text=True, check=True)
    for words in asked:
        assert words[0] == "install"
        assert all(re.search(rf"{word}\b", help_text.stdout) for word in words if word.startswith("--"))
    torch, package = (words[-1] for words in asked)
    assert re.fullmatch(r"torch==[\d.]+", torch)
    assert (Path(package) / "pyproject.toml").is_file()
    assert Path(asked[1][asked[1].index("--constraint") + 1]).is_file()


@pytest.mark.slow
def test_a_run_that_passes(place: Path, passed: Ran) -> None:
    ran = passed
    assert ran.code == 0, ran.log
    assert ran.outputs == {"outcome": "passed", "folder": "slim out"}
    assert set(ran.steps.values()) == {"success"}
    for name, given in ran.used.items():
        assert set(given) <= KNOWN[name]
        assert all(given.values())
    work = runner(place).workspace
    for path in ran.used["actions/upload-artifact"]["path"].split("\n"):
        assert not path or (work / path).exists()
    assert any((work / ran.used["actions/cache/save"]["path"]).iterdir())
    assert ran.used["actions/cache/save"]["key"].startswith(ran.used["actions/cache/restore"]["restore-keys"])
    assert "passed" in ran.summary


@pytest.mark.slow
@pytest.mark.usefixtures("passed")
def test_a_run_that_fails(place: Path) -> None:
    ran = act(place, max_size="1kB", junit="it's.xml")
    assert ran.code == 4, ran.log
    report = json.loads((runner(place).workspace / "slim out" / "report.json").read_text(encoding="utf-8"))
    assert report["cached"]
    assert ran.outputs["outcome"] == "failed"
    assert (ran.steps["prune"], ran.steps["check"]) == ("success", "failure")
    assert {"actions/cache/save", "actions/upload-artifact"} <= set(ran.used)  # to be looked at, and not to be done again
    tree = ElementTree.parse(runner(place).workspace / "it's.xml")
    assert tree.getroot().find(".//failure") is not None
    assert "failed" in ran.summary


@pytest.mark.slow
@pytest.mark.usefixtures("passed")
def test_a_run_that_is_undecided(place: Path) -> None:
    work = runner(place).workspace
    report = json.loads((work / "slim out" / "report.json").read_text(encoding="utf-8"))
    report["latency"]["threads"] = 64  # what was not measured alike cannot be compared
    (work / "main's report.json").write_text(json.dumps(report), encoding="utf-8")
    as_it_is = "from qcompress.cli.main import main\nsys.exit(0 if sys.argv[1] == 'prune' else main())"
    ran = act(place, as_it_is, baseline="main's report.json")
    assert ran.code == 6, ran.log
    assert ran.outputs["outcome"] == "undecided"
    assert "undecided" in ran.summary
    assert act(place, as_it_is, baseline="main's report.json", undecided="pass").outputs["outcome"] == "passed"
