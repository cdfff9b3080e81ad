"""What is refused on the command line says what was expected, with its unit, and what to do next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qcompress import pipeline, tracing
from qcompress.assembly_notes import _reachable
from qcompress.cli.main import main
from qcompress.drops import Drop, check_unit, parse_drop
from qcompress.errors import UsageError
from qcompress.progress import SILENT
from qcompress.settings import DataOptions, FinetuneOptions, Limits, SearchOptions, Settings, VerifyOptions
from qcompress.sweeping.rules import parse_rule


@pytest.mark.parametrize(
    ("text", "drop"),
    [
        ("0.1", Drop(0.1)),
        ("0.1dB", Drop(0.1, "dB")),
        (" 2 Points ", Drop(2.0, "points")),
        ("1pt", Drop(1.0, "points")),
        ("1.5 pts", Drop(1.5, "points")),
        ("1%", Drop(1.0, "points")),
        ("1e-3", Drop(0.001)),
    ],
)
def test_a_drop_keeps_its_unit(text: str, drop: Drop) -> None:
    assert parse_drop(text, "--max-drop") == drop
    rule = parse_rule(f"drop:{text}")
    assert (rule.limit, rule.unit) == (drop.amount, drop.unit)


@pytest.mark.parametrize("text", ["", "dB", "1km", "-1", "inf", "nan", "1.2.3", "1 dB dB"])
def test_what_is_no_drop(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-drop .*: expected a finite number of 0 or more") as caught:
        parse_drop(text, "--max-drop")
    assert caught.value.hint == "for example --max-drop 0.1dB"


def test_a_unit_has_to_be_the_metrics() -> None:
    for unit, own in (("dB", "dB"), ("points", "points"), ("", "dB"), ("", "")):
        check_unit(unit, "--max-drop", "m", own)
    with pytest.raises(UsageError, match=r"--max-drop is given in points, but drops of psnr are in dB"):
        check_unit("points", "--max-drop", "psnr", "dB")
    with pytest.raises(UsageError, match=r"but drops of ssim are numbers without a unit"):
        check_unit("dB", "--max-drop", "ssim", "")


def test_another_unit_is_refused_before_the_network_is_traced(
    checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "trace", None)
    data = DataOptions(images, "gaussian:25")
    settings = Settings(data=data, verify=VerifyOptions(size=32), limits=Limits(1.0, drop_unit="points"))
    with pytest.raises(UsageError, match="drops of psnr are in dB"):
        pipeline.prepare(checkpoint, settings, SILENT)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["prune", "--max-drop", "1km"], "error: --max-drop '1km': expected a finite number", "--max-drop 0.1dB"),
        (["prune", "--max-drop", "-1"], "--max-drop '-1'", "0.1dB"),
        (["prune", "--multiple-of", "x"], "--multiple-of 'x': expected PATTERN=NUMBER", "--multiple-of 'up.*=8'"),
        (["prune", "--multiple-of", "a=2.5"], "--multiple-of 'a=2.5': expected a whole number", "'up.*=8'"),
        (["prune", "--minutes", "0", "--recover", "finetune"], "minutes must be finite and above 0, got 0", "10 minutes"),
        (["prune", "--minutes", "inf", "--recover", "finetune"], "minutes must be finite", "10 minutes"),
        (["prune", "--finetune-steps", "0"], "steps must be finite and above 0, got 0", "10 minutes"),
        (["prune", "--minutes", "3", "--epochs", "2"], "expected one of them", "one measure"),
        (["prune", "--floor", "0"], "must be at least 1, got 0", "1 is the least"),
        (["prune", "--target-macs", "0"], "at most 0 is to stay", "--target-macs 300M"),
        (["sweep", "--max-drop", "0.1"], "No such option: --max-drop", "--pick drop:0.1"),
        (["sweep", "--pick", "speedup:2dB"], "--pick 'speedup:2dB': not a rule", "speedup:2 or"),
        (["sweep", "--pick", "drop:x"], "--pick drop: 'x'", "--pick drop:0.1dB"),
    ],
)
def test_mistakes_come_with_the_next_step(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([arguments[0], "net.pt", *arguments[1:]]) == 2
    said, _, next_step = capsys.readouterr().err.partition("hint: ")
    assert message in said
    assert hint in next_step


def test_settings_say_what_they_take_where_there_is_no_command_line() -> None:
    for make in (lambda: Limits(-1.0), lambda: FinetuneOptions(minutes=float("nan")), lambda: SearchOptions(floor=0)):
        with pytest.raises(UsageError) as caught:
            make()
        assert caught.value.hint


def test_larger_blocks_are_advised_only_where_they_reach_what_was_asked(checkpoint: Path, images: Path) -> None:
    """Groups of 8 keep 4 or all by blocks of 16, so at most half can go."""
    settings = Settings(data=DataOptions(images, "gaussian:25"), verify=VerifyOptions(size=32), search=SearchOptions(align=1))
    job = pipeline.prepare(checkpoint, settings, SILENT)
    assert _reachable(replace(job, settings=replace(settings, sparsity=0.4)), 16)
    assert not _reachable(replace(job, settings=replace(settings, sparsity=0.8)), 16)
