"""What all pictures look like, and how they become files: the same figure gives the same bytes.

matplotlib keeps its settings in one global table. `styled` puts ours there while a picture is made, on top of matplotlib's own
defaults, and then puts back what was there; pyplot, its windows and its list of figures are never touched.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, ParamSpec, TypeVar

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from qcompress.visible import visible

__all__ = [
    "COLOURS",
    "FORMATS",
    "INK",
    "MARKERS",
    "QUIET",
    "WIDTH_IN",
    "Format",
    "figure",
    "layer_name",
    "legend",
    "render",
    "shown",
    "styled",
]

Format = Literal["svg", "png"]
FORMATS: tuple[Format, ...] = ("svg", "png")
WIDTH_IN = 7.5
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195")
"""Told apart with any common colour vision: those of Okabe and Ito (Color Universal Design, 2008) on white, and one."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, QUIET = "#222222", "#767676"
_FONT = "DejaVu Sans"  # comes with matplotlib, so that every machine draws the same letters
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.facecolor": "white",  # a card of its own: reads the same in light and dark viewers
    "font.family": [_FONT],
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "savefig.dpi": 150,
    "svg.fonttype": "path",
    "svg.hashsalt": "qcompress",  # else the names inside the file are random
    "text.color": INK,
    "text.parse_math": False,  # a layer's name may have dollar signs
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def _ours() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]
        yield


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """`draw`, which makes or saves a figure, in our style."""

    @functools.wraps(draw)
    def run(*arguments: _P.args, **options: _P.kwargs) -> _R:
        with _ours():
            return draw(*arguments, **options)

    return run


def figure(height_in: float, rows: int = 1, columns: int = 1, *, same_x: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of the common width and its axes, row by row."""
    drawn = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return drawn, list(drawn.subplots(rows, columns, squeeze=False, sharex=same_x).flat)


def legend(drawn: Figure, entries: Sequence[tuple[Artist, str]], columns: int = 4) -> None:
    """One legend above all axes, each label once."""
    unique = {label: artist for artist, label in reversed(entries)}
    labels = list(dict.fromkeys(label for _, label in entries))
    if labels:
        widest = max(map(len, labels))
        fitting = max(1, min(columns, 100 // (widest + 8)))  # so many columns of 8 point letters are as wide as the figure
        drawn.legend([unique[label] for label in labels], labels, loc="outside upper left", ncols=fitting)


@styled
def render(drawn: Figure, form: Format = "svg") -> bytes:
    """The file, without a date: the same figure by the same matplotlib is the same file."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    drawn.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()


def shown(text: str, longest: int = 40) -> str:
    r"""`text` as a label: what cannot be seen or is not in the font as its escape, the middle left out of what is too long.

    >>> shown("a\nb$c$"), shown("photographs-of-mine", 10)
    ('a\\nb$c$', 'pho…f-mine')
    """
    known = _characters()
    text = "".join(char if ord(char) in known else char.encode("unicode_escape").decode() for char in visible(text))
    if len(text) > longest:
        head = (longest - 1) // 3
        text = f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"
    return f" {text}" if text.startswith("_") else text  # matplotlib hides labels that begin so


def layer_name(text: str, longest: int) -> str:
    """A layer's name as `shown`, but of what is too long the words are cut first: the numbers tell layers apart.

    The last part stays whole where it can.

    >>> layer_name("encoder.layers.12.residual_group.blocks.3.attn.proj", 26)
    'en.la.12.re.bl.3.at.proj'
    """
    parents, dot, last = text.rpartition(".")
    for letters in range(8, 0, -1):
        if len(text) > longest:
            text = _cut(parents, letters) + dot + last
    for letters in range(8, 0, -1):
        if len(text) > longest:
            text = _cut(parents, 1) + dot + _cut(last, letters)
    return shown(text, longest)


def _cut(text: str, letters: int) -> str:
    return re.sub(rf"([^\W\d]{{{letters}}})[^\W\d]+", r"\1", text)


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())
