"""qcompress.toml: every option of prune and no other, errors with line and key, the command line first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from qcompress import pipeline
from qcompress.cli import config_file
from qcompress.cli.config_template import template
from qcompress.cli.main import app, main
from qcompress.cli.option_table import options_of
from qcompress.cli.prune import prune
from qcompress.errors import InputError, UsageError
from qcompress.settings import Settings
from qcompress.targets import AtMost


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Settings]]:
    """The settings of runs that get no further."""
    found: list[Settings] = []

    def run(_: Path, settings: Settings, **__: Any) -> None:
        found.append(settings)
        raise UsageError("far enough")

    monkeypatch.setattr(pipeline, "prune", run)
    return iter([found])


def settings_of(found: list[Settings], arguments: list[str]) -> Settings:
    assert main(["prune", "net.pt", *arguments]) == 2
    return found.pop()


def written(folder: Path, text: str) -> str:
    path = folder / "own.toml"
    path.write_text(text)
    return str(path)


def test_the_file_has_every_option_of_the_command_line_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["prune", "--help"]) == 0
    shown = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", "\n".join(_option_lines(capsys.readouterr().out))))
    assert main(["init", str(tmp_path / "all.toml")]) == 0
    keys = re.findall(r"(?m)^# ([a-z-]+) = ", (tmp_path / "all.toml").read_text())
    assert len(keys) == len(set(keys)) > 40
    assert set(keys) == shown - {"config", "help", "static"}


def _option_lines(text: str) -> list[str]:
    """What stands before the help of each option."""
    lines = (line.lstrip("│ *") for line in text.splitlines() if re.match(r"\W*--?[a-z]", line))
    return [re.split(r"\s{3,}(?!-)", line)[0] for line in lines]


def test_defaults_that_are_written_are_the_commands_own(tmp_path: Path) -> None:
    lines = template(options_of(prune)).splitlines()
    text = "\n".join(line.removeprefix("# ") for line in lines if re.match(r"# [a-z-]+ = ", line) and "no default" not in line)
    values = config_file.read(Path(written(tmp_path, text)), options_of(prune))
    defaults = {option.name: option.default for option in options_of(prune)}
    assert len(values) > 15
    for name, value in values.items():
        assert value == ([] if defaults[name] is None else defaults[name]), name


def test_a_file_says_what_the_command_line_does(tmp_path: Path, asked: Iterator[list[Settings]]) -> None:
    found = next(asked)
    text = """
        target-macs = "300M"
        align = 8
        max-drop = 0.1
        dynamic = false
        recover = "bias"
        mean = [0.5, 0.25]
        std = "imagenet"
        arch-args = { width = 32 }
        ignore = ["out", "stem.*"]
        seed = 7
        [keep]
        "enc.*" = 0.75
    """
    by_file = settings_of(found, ["--config", written(tmp_path, text)])
    line = ["--target-macs", "300M", "--align", "8", "--max-drop", "0.1", "--static", "--recover", "bias", "--mean", "0.5,0.25"]
    line += ["--std", "imagenet", "--arch-args", '{"width": 32}', "--ignore", "out", "--ignore", "stem.*", "--seed", "7"]
    assert by_file == settings_of(found, [*line, "--keep", "enc.*=0.75"])
    assert by_file.target == AtMost(3e8)


def test_the_command_line_comes_first(tmp_path: Path, asked: Iterator[list[Settings]]) -> None:
    found = next(asked)
    own = written(tmp_path, 'target-macs = "1G"\nbudget = "macs"\nseed = 3\nfloor = 2\nplots = true')
    by_both = settings_of(found, ["--config", own, "--seed", "4", "--target-params", "1k"])
    assert (by_both.seed, by_both.search.floor, by_both.plots) == (4, 2, True)
    assert (by_both.target, by_both.budget) == (AtMost(1000), "params")
    share = settings_of(found, ["--config", own, "-s", "0.3"])
    assert (share.target, share.sparsity, share.budget) == (None, 0.3, "macs")
    assert settings_of(found, ["--config", own]).target == AtMost(1e9)
    assert settings_of(found, []).seed == 0


def test_the_working_folder_is_looked_into_only_if_asked(
    tmp_path: Path, asked: Iterator[list[Settings]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qcompress.toml").write_text("seed = 5")
    assert settings_of(found, []).seed == 0
    assert settings_of(found, ["--config", "auto"]).seed == 5


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("seed = 1\nrefine_eval = 5", "line 2: unknown key 'refine_eval'", "the nearest is refine-evals"),
        ("zzz = 1", "line 1: unknown key 'zzz'", "qcompress init"),
        ("[keeps]\na = 1", "line 1: unknown key 'keeps'", "the nearest is keep"),
        ("\n\nseed = 'x'", 'line 3: seed: expected a whole number, got "x"', "--seed"),
        ("floor = true", "line 1: floor: expected a whole number, got true", "--floor"),
        ("sparsity = 'half'", 'line 1: sparsity: expected a number, got "half"', "--sparsity"),
        (
            "recover = 'magic'",
            'line 1: recover: expected one of none, batchnorm, bias, lstsq, finetune, got "magic"',
            "--recover",
        ),
        ("ignore = 'out'", 'line 1: ignore: expected a list of texts, got "out"', "--ignore"),
        ("plots = 1", "line 1: plots: expected true or false, got 1", "--plots"),
        ("noise = 2000-01-01", "line 1: noise: expected a text, got", "--noise"),
        ("mean = ['x']", "line 1: mean: expected a list of numbers", "--mean"),
        ("keep = 0.5", "line 1: keep: expected a list of texts, or a table of PATTERN=SHARE, got 0.5", "--keep"),
        ("[keep]\n# up\n'model.0' = 'much'", "line 3: keep 'model.0': expected a number, got \"much\"", "--keep"),
        ("[keep]\nmodel.0 = 0.5", "line 2: keep 'model': names with dots in quotes", "--keep"),
        ("[multiple-of]\n'a' = 8\n'a.2' = 2.5", "line 3: multiple-of 'a.2': expected a whole number", "--multiple-of"),
        ("seed = 1\nseed = 2", "line 2: seed is given twice", "leave one"),
        ("seed 1", "line 1: not TOML: Expected '=' after a key in a key/value pair", "init"),
        ("seed = 1\nignore = [\n 'a',\n", "line 2: not TOML: ", "init"),
        ("config = 'x'", "unknown key 'config'", ""),
    ],
)
def test_mistakes_are_named_with_line_and_key(text: str, message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        config_file.read(Path(written(tmp_path, text)), options_of(prune))
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("max-drop = 0.1", "--pick drop:0.1 picks"),
        ("sparsity = 0.5", "--at 0.2,0.35,0.5 lists"),
        ("undecided = 'fail'", "sweep takes no --undecided"),
        ("pickk = 'knee'", "the nearest is pick"),
        ("config = 'x'", "qcompress init"),
    ],
)
def test_a_sweep_says_what_it_has_in_place_of_a_key_of_prune(
    text: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "net.pt", "--config", written(tmp_path, f"seed = 1\n{text}")]) == 3
    shown = " ".join(capsys.readouterr().err.split())
    assert f"line 2: unknown key '{text.split()[0]}'" in shown
    assert hint in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\nsparsity = 1.5", "line 2: sparsity must be at least 0 and below 1, got 1.5"),
        ("target-macs = '12X'", "line 1: target-macs '12X': expected a number, with a unit if need be"),
        ("\nsteps = 0", "line 2: steps: "),
        ("keep = ['a=0.5', 'b=much']", "line 1: keep 'b=much': expected PATTERN=NUMBER"),
        ("[keep]\na = 0.5\n\n'b.*' = 2", "line 4: keep b.*=2.0: expected a share"),
        ("minutes = 3.0\nrecover = 'finetune'\nepochs = 2", "line 1: minutes: fine-tuning for minutes and epochs"),
        ("seed = 1\nmax-drop = 'x'", "line 2: max-drop 'x': expected a finite number"),
    ],
)
def test_values_that_are_refused_later_are_named_with_line_and_key_too(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = written(tmp_path, text)
    assert main(["prune", "net.pt", "--config", own]) == 3
    assert f"error: {own}, {message}" in capsys.readouterr().err.replace("\n", " ")
    assert main(["prune", "net.pt", "--config", written(tmp_path, "seed = 1"), "-s", "1.5"]) == 2  # the line's own
    assert "own.toml" not in capsys.readouterr().err


def test_every_line_of_the_template_loads_when_it_alone_is_used(tmp_path: Path, asked: Iterator[list[Settings]]) -> None:
    found, command = next(asked), get_command(app)
    text = template(options_of(prune))
    assert "\\[" not in text
    assert 'max-drop = "0.1dB"' in text
    needs = dict.fromkeys(
        ("minutes", "epochs", "finetune-steps", "train-data", "learning-rate", "teaching"), 'recover="finetune"'
    )
    needs |= {"optimizer": 'recover = "finetune"', "latency-table": 'budget = "latency"'}
    for line in (line.removeprefix("# ") for line in text.splitlines() if re.match(r"# [a-z-]+ = ", line)):
        key = line.partition(" ")[0]
        with_that = f"{line}\n{needs.get(key, '')}"
        with pytest.raises(UsageError, match="far enough"):
            command(["prune", "net.pt", "--config", written(tmp_path, with_that)], standalone_mode=False)
        assert found.pop(), line


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    said = {"binary": "not UTF-8", "long": "larger than 1 MiB", "deep": "not TOML", "none": "cannot be read"}
    for name, message in said.items():
        assert main(["prune", "net.pt", "--config", str(tmp_path / name)]) == 3
        assert message in capsys.readouterr().err


def test_init_writes_over_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "qcompress.toml"
    path.write_text("seed = 9")
    assert main(["init", str(path)]) == 3
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "seed = 9"
    assert main(["init", str(path), "--force"]) == 0
    assert config_file.read(path, options_of(prune)) == {}
