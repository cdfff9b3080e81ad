"""The part of report.json that says what is on the sheet of crops."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qcompress.report_values import Facts, Number, Text

__all__ = ["ClassFacts", "CropFacts", "CropSheet"]


class ClassFacts(Facts):
    """A class, and how probable two classifiers say it is."""

    name: Text
    dense: Number
    slim: Number


class CropFacts(Facts):
    """A square window of a report image, a row of the sheet: its place in the target, and the metric of the whole image.

    `changed` is the share of the image's pixels that got another label, where outputs are labels. Of a classifier it is the
    whole image; `label` is its class, `classes` are those that the two networks rank first, and its own.
    """

    name: Text
    top: int
    left: int
    dense: Number
    artifact: Number
    changed: Number = None
    label: Text | None = None
    classes: tuple[ClassFacts, ...] = Field(default=(), max_length=3)


class CropSheet(Facts):
    """crops.png: a row for each window, `side` pixels square, a column for each of what the networks were given and returned.

    In the last column is the difference between the artifact's output and the dense one's, brightest at `brightest` (of 0..1;
    None for labels, where it marks the pixels that changed theirs). Of a classifier there are inputs alone, and `changed` is
    the number of report images that got another class.
    """

    side: int = Field(ge=1, le=512)
    columns: tuple[Literal["input", "dense", "slim", "target", "difference"], ...] = Field(min_length=1, max_length=5)
    rows: tuple[CropFacts, ...] = Field(max_length=8)
    brightest: Number = None
    changed: int | None = None
