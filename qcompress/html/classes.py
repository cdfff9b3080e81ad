"""Report images beside what the dense classifier and the slim one say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompress.html.numbers import fixed
from qcompress.html.pictures import Strip
from qcompress.plots.numbers import drawable
from qcompress.reports import ClassFacts, Report

__all__ = ["Answer", "Card", "cards", "changes"]


@dataclass(frozen=True)
class Answer:
    """A class: its probability by both networks, in per cent of the axis and as text; `right` where it is the image's own."""

    name: str
    dense: float | None
    slim: float | None
    text: str
    right: bool


@dataclass(frozen=True)
class Card:
    """An image: its picture, its class, what became of its answer, and the classes that were answered."""

    name: str
    picture: str
    label: str
    verdict: str
    mood: str
    answers: tuple[Answer, ...]


def cards(strips: Sequence[Strip]) -> tuple[Card, ...]:
    """Of the images of a classifier's sheet; () of other sheets."""
    return tuple(_card(strip) for strip in strips if strip.facts.classes)


def changes(report: Report) -> str:
    """How many report images got another class, and to whose good: in one sentence, "" where no one counted."""
    if report.crops is None or report.crops.changed is None:
        return ""
    changed, every = report.crops.changed, report.metric.images
    if not changed:
        return f"All {every} report images get the same class; shown are those whose probabilities changed the most."
    text = f"{changed} of {every} report images get{'s' if changed == 1 else ''} another class"
    each = report.metric.per_image
    if each is None or report.metric.name != "top1":
        return f"{text}."
    pairs = list(zip(each.dense, each.artifact, strict=False))
    lost, won = sum(a == 100 and b == 0 for a, b in pairs), sum(a == 0 and b == 100 for a, b in pairs)
    neither = max(changed - lost - won, 0)
    return f"{text}: {lost} that the dense network got right, {won} that the slim one gets right, {neither} that neither does."


def _card(strip: Strip) -> Card:
    facts = strip.facts
    first = {side: _first(facts.classes, side) for side in ("dense", "slim")}
    right = {side: name == facts.label for side, name in first.items()}
    if first["dense"] == first["slim"]:
        verdict, mood = ("right both times", "good") if right["dense"] else ("wrong both times", "open")
    elif right["dense"]:
        verdict, mood = "no longer right", "bad"
    else:
        verdict, mood = ("now right", "good") if right["slim"] else ("wrong both times", "open")
    answers = tuple(
        Answer(
            name=each.name,
            dense=_place(each.dense),
            slim=_place(each.slim),
            text=f"{_percent(each.dense)} → {_percent(each.slim)}",
            right=each.name == facts.label,
        )
        for each in facts.classes
    )
    return Card(facts.name, strip.pictures.get("input", ""), facts.label or "", verdict, mood, answers)


def _first(classes: Sequence[ClassFacts], side: str) -> str:
    """The class that the network of a side finds the most probable."""
    values = [getattr(each, side) for each in classes]
    return max(zip(values, classes, strict=True), key=lambda pair: pair[0] if drawable(pair[0]) else -1.0)[1].name


def _place(value: float | None) -> float | None:
    return round(100 * min(max(value, 0.0), 1.0), 2) if drawable(value) else None


def _percent(value: float | None) -> str:
    return fixed(100 * value, 0, "%") if drawable(value) else "–"
