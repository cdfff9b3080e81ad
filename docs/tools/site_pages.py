"""The pages of the site: which there are, in which order, and how the repository's own files become some of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["NAVIGATION", "ROOT_PAGES", "linked", "navigation", "sources", "title_of"]

ROOT_PAGES: Mapping[str, str] = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files at the top of the repository that are pages, too, and what they are called there."""

NAVIGATION: Sequence[tuple[str, Sequence[str]]] = (
    ("Start", ("index.md", "tutorial.md", "loaders.md", "data.md")),
    ("How to", ("own-network.md", "own-metric.md", "ci.md", "edge.md", "cluster.md", "qpu.md", "plots.md")),
    ("Background", ("method.md", "benchmarks.md", "design.md")),
    ("Reference", ("commands.md", "names.md")),
    (
        "Extending",
        ("extend/solver.md", "extend/exporter.md", "extend/architecture.md", "extend/objective.md", "extend/metric.md"),
    ),
    ("Project", ("changelog.md", "contributing.md", "security.md")),
)
"""Sections and their pages. Pages that are not there are left out; those that are in no section end up in "How to"."""

_MENTION = re.compile(r"(?<![\w/.])(?P<path>(?:docs/)?(?:[a-zA-Z][\w-]*/)*[\w-]+\.md)(?![\w/])")
_CODE = re.compile(r"(^```.*?^```$|^(?: {4}|\t)[^\n]*$|`[^`\n]+`|\[[^\]\n]*\]\([^)\n]*\))", re.DOTALL | re.MULTILINE)


def navigation(pages: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The sections with what there is of their pages."""
    placed = {page for _, section in NAVIGATION for page in section}
    others = sorted(page for page in pages if page not in placed)
    for title, section in NAVIGATION:
        present = [page for page in section if page in pages] + (others if title == "How to" else [])
        if present:
            yield title, present


def linked(text: str, page: str, titles: Mapping[str, str]) -> str:
    """`text` of `page` with every mention of a page's file ("docs/qpu.md") as a link that shows the page's title.

    >>> linked("See docs/qpu.md.", "extend/solver.md", {"qpu.md": "Quantum"})
    'See [Quantum](../qpu.md).'
    """

    def link(found: re.Match[str]) -> str:
        path = ROOT_PAGES.get(found["path"], found["path"].removeprefix("docs/"))
        if path not in titles or path == page:
            return found[0]
        return f"[{titles[path]}]({'../' * page.count('/')}{path})"

    parts = _CODE.split(text)
    parts[::2] = [_MENTION.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def title_of(text: str, page: str) -> str:
    """The page's first heading. Raises ValueError where it does not begin with one."""
    first = text.splitlines()[0] if text else ""
    if not first.startswith("# "):
        raise ValueError(f"{page}: a page begins with a heading of the first level, got {first!r:.60}")
    return first.removeprefix("# ").replace("`", "")


def sources(root: Path) -> dict[str, str]:
    """Page to Markdown, of the pages that are files of the repository at `root`."""
    docs = root / "docs"
    found = {path.relative_to(docs).as_posix(): path.read_text(encoding="utf-8") for path in sorted(docs.rglob("*.md"))}
    return found | {page: (root / file).read_text(encoding="utf-8") for file, page in ROOT_PAGES.items()}
