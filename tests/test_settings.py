"""What `auto` stands for, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qcompress.checkpoints import Checkpoint
from qcompress.commands import prune_command as command
from qcompress.errors import UsageError
from qcompress.loading import load
from qcompress.qubo import Auto, Hybrid, Objective, Reconstruction, Taylor
from qcompress.settings import AS_CUT_STEPS, RecoverLevel, SearchOptions, Settings


@pytest.mark.parametrize(
    ("recover", "objective", "steps"),
    [("lstsq", Reconstruction(), 1), ("bias", Hybrid(), AS_CUT_STEPS), ("none", Hybrid(), AS_CUT_STEPS)],
)
def test_auto_is_chosen_by_the_repair(recover: RecoverLevel, objective: Objective, steps: int) -> None:
    settings = Settings(recover=recover)
    assert settings.search.objective == Auto()
    found = settings.resolved()
    assert found.search.objective == objective
    assert found.search.relinearise == steps
    assert found.resolved() == found
    assert settings.search.objective == Auto()  # the value itself is never changed


def test_classes_are_pruned_by_the_hybrid() -> None:
    found = Settings().resolved("classification").search
    assert (found.objective, found.relinearise) == (Hybrid(), 1)
    assert Settings().resolved("segmentation").search.objective == Reconstruction()
    assert Settings(recover="none").resolved("classification").search.relinearise == AS_CUT_STEPS


def test_what_was_asked_for_stays() -> None:
    assert Settings(recover="none", search=SearchOptions(relinearise=2)).resolved().search.relinearise == 2
    assert Settings(search=SearchOptions(Taylor())).resolved().search == SearchOptions(Taylor(), relinearise=1)
    assert Settings(search=SearchOptions(Hybrid(), relinearise=4)).resolved().search.relinearise == 4
    assert Settings(recover="none", search=SearchOptions(Reconstruction())).resolved().search.objective == Reconstruction()


def test_reconstruction_takes_no_steps() -> None:
    with pytest.raises(UsageError, match="relinearise 3"):
        SearchOptions(Reconstruction(), relinearise=3)
    with pytest.raises(UsageError, match="relinearise 3"):  # auto is reconstruction there
        Settings(search=SearchOptions(relinearise=3)).resolved()
    assert SearchOptions(Reconstruction(), relinearise=1).relinearise == 1
    with pytest.raises(UsageError, match="at least 1"):
        SearchOptions(relinearise=0)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Checkpoint:
    return load(checkpoint)


@pytest.mark.parametrize("recover", ["lstsq", "none"])
def test_the_command_of_a_report_names_what_was_used(recover: RecoverLevel, loaded: Checkpoint) -> None:
    settings = Settings(recover=recover)
    words = command(loaded, settings.resolved()).split()
    named = words[words.index("--objective") + 1]
    assert named == ("reconstruction" if recover == "lstsq" else "hybrid")
    assert ("--relinearise" in words) == (recover == "none")
    if recover == "none":
        assert words[words.index("--relinearise") + 1] == str(AS_CUT_STEPS)
    steps = replace(settings, search=SearchOptions(Hybrid(), relinearise=3))
    assert "--relinearise 3" in command(loaded, steps.resolved())


def test_the_command_of_settings_that_stand_for_others_names_no_number(loaded: Checkpoint) -> None:
    assert "None" not in command(loaded, Settings())
