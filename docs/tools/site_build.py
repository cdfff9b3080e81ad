"""Makes what the site generator reads: a folder with all pages, written and generated, and its settings.

    python docs/tools/site_build.py build/docs      (`make docs` does this, and runs the generator on it)

The folder is made anew. It needs the extra `docs`: latex2mathml, and ziamath for the font that it brings, STIX Two Math (SIL
Open Font Licence), for not every system has one for formulas. And qcompress itself, whose commands and names become pages.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from site_commands import commands_page
from site_formulas import with_formulas
from site_names import names_page
from site_pages import linked, navigation, sources, title_of

__all__ = ["build", "pages"]

ROOT = Path(__file__).resolve().parents[2]
_STYLE = Path(__file__).with_name("site.css")
_SETTINGS = Path(__file__).with_name("site.yml")


def pages(convert: Callable[[str, str], str], root: Path = ROOT) -> dict[str, str]:
    """Page to Markdown as the generator gets it, with links and formulas; `convert` as in `with_formulas`."""
    found = sources(root) | {"commands.md": commands_page(), "names.md": names_page()}
    titles = {page: title_of(text, page) for page, text in found.items()}
    return {page: with_formulas(linked(text, page, titles), convert) for page, text in found.items()}


def build(folder: Path, made: Mapping[str, str], font: Path) -> None:
    """Writes `folder`/mkdocs.yml and the pages below `folder`/pages, with the font of their formulas."""
    shutil.rmtree(folder, ignore_errors=True)
    for page, text in made.items():
        path = folder / "pages" / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copy(_STYLE, folder / "pages" / "site.css")
    shutil.copy(font, folder / "pages" / "formulas.ttf")
    lines = [_SETTINGS.read_text(encoding="utf-8"), "nav:"]
    for title, section in navigation(sorted(made)):
        lines += [f"  - {title}:", *(f"      - {page}" for page in section)]
    (folder / "mkdocs.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import ziamath
    from latex2mathml.converter import convert

    build(
        Path(sys.argv[1]),
        pages(lambda latex, display: str(convert(latex, display=display))),
        Path(ziamath.__file__).with_name("fonts") / "STIXTwoMath-Regular.ttf",
    )
