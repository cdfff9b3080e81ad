"""Words, numbers and tables as Markdown takes them. Names from outside are escaped, so that they stay text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from qcompress.reports import MetricFacts
from qcompress.visible import visible

__all__ = ["code_block", "difference_unit", "escape", "percent", "plain", "scientific", "signed", "table", "unit"]


def escape(text: str) -> str:
    r"""`text` as Markdown that shows exactly it: no markup, no HTML, no line breaks, no invisible characters.

    >>> print(escape("a_b|<i>.png"))
    a\_b\|&lt;i&gt;.png
    """
    text = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")  # what would become a link by itself
    text = re.sub(r"([\\`*_{}\[\]|~$!])", r"\\\1", text)
    return re.sub(r"^(\s*)([-+=#:]|\d+(?=[.)](\s|$)))", _begin_as_text, text)


def code_block(text: str) -> str:
    """`text` in a fence longer than any run of backticks in it, without characters that move the cursor."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{visible(text)}\n{fence}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: bool = True) -> str:
    """A Markdown table of cells that are Markdown already; all columns but the first are right-aligned where `numeric`."""
    rule = ["---", *(["---:" if numeric else "---"] * (len(columns) - 1))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))


def plain(value: float | None, digits: int, unit: str = "") -> str:
    """A number, a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def signed(value: float | None, digits: int) -> str:
    """With its sign, and never "-0.00"."""
    if value is None:
        return "-"
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def scientific(value: float | None) -> str:
    """A small number, as a power of ten."""
    return "not a number" if value is None else f"{value:.1e}"


def percent(share: float | None) -> str:
    """A share, 0..1, in per cent; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2g} %"


def difference_unit(metric: MetricFacts) -> str:
    """What follows a difference of the metric: its unit, or points."""
    return " points" if metric.unit == "%" else unit(metric)


def unit(metric: MetricFacts) -> str:
    """What follows a value of the metric: its unit, or nothing."""
    return f" {metric.unit}" if metric.unit else ""


def _begin_as_text(match: re.Match[str]) -> str:
    """What would begin a list, a heading or a table, so that it does not."""
    blank, mark = match.group(1), match.group(2)
    return f"{blank}{mark[:-1]}&#{ord(mark[-1])};" if mark.isdecimal() else f"{blank}\\{mark}"
