"""The site's generated pages say what the program says, its pages are found, and nothing is mentioned that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from site_build import pages
from site_docstrings import as_markdown
from site_formulas import with_formulas
from site_names import SECTIONS
from site_pages import NAVIGATION, ROOT_PAGES, linked, navigation, sources, title_of

import qcompress
from qcompress import errors
from qcompress.cli.main import app, main

ROOT = Path(__file__).parent.parent
COMMANDS = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback]
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


@pytest.fixture(scope="module")
def site() -> dict[str, str]:
    """The pages as the generator gets them; formulas stay LaTeX."""
    return pages(lambda latex, display: f"<{display}>{latex}</{display}>")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_commands_has_the_options_that_help_shows(
    command: str, site: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    main([command, "--help"])
    shown = re.findall(r"^│ ((?:--?[a-z][\w-]*\s+)+)", capsys.readouterr().out, re.MULTILINE)
    offered = {option for names in shown for option in names.split()}
    section = re.split(r"^## ", site["commands.md"], flags=re.MULTILINE)[1 + COMMANDS.index(command)]
    assert section.startswith(f"{command}\n")
    rows = re.findall(r"^\| `(-[^`]+)`", section, re.MULTILINE)
    assert {option for row in rows for option in _OPTION.findall(row)} - {"-h"} == offered - {"-h"}
    assert len(offered) > 2


def test_help_keeps_what_is_in_brackets(site: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help is rich's markup, which would swallow the extra in `pip install 'qcompress[ray]'`."""
    main(["prune", "--help"])
    assert "qcompress[ray]" in "".join(capsys.readouterr().out.replace("│", "").split())
    assert "'qcompress[ray]'" in site["commands.md"]


def test_the_page_of_names_has_every_public_name_and_error(site: dict[str, str]) -> None:
    headings = set(re.findall(r"^### (\w+)$", site["names.md"], re.MULTILINE))
    assert set(qcompress.__all__) - {"__version__"} <= headings
    assert set(errors.__all__) <= headings
    assert {name for _, homes in SECTIONS for _, names in homes for name in names} - {"*"} <= headings
    assert "sparsity: float = 0.5" in site["names.md"]
    assert "__call__(bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet" in site["names.md"]


def test_every_page_is_in_the_navigation_once(site: dict[str, str]) -> None:
    placed = [page for _, section in navigation(sorted(site)) for page in section]
    assert sorted(placed) == sorted(site)
    assert "ci.md" in [page for _, section in NAVIGATION for page in section]


def test_pages_that_are_in_no_section_are_shown_all_the_same() -> None:
    assert list(navigation(["new.md", "qpu.md"])) == [("How to", ["qpu.md", "new.md"])]


def test_what_pages_mention_is_there(site: dict[str, str]) -> None:
    """Pages, and files of the repository, named in the text of pages and of docstrings."""
    texts = {**sources(ROOT), "names.md": site["names.md"]}
    for page, text in texts.items():
        for path in re.findall(r"(?<![\w/.])(?:docs|examples|tests|benchmarks)/[\w./-]*\w", text):
            assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), f"{page} mentions {path}"


def test_mentions_become_links(site: dict[str, str]) -> None:
    assert "[The method](method.md)" in site["tutorial.md"]
    assert "[The method](../method.md)" in site["extend/solver.md"]
    assert "[Security](security.md)" in site["index.md"]
    titles = {page: title_of(text, page) for page, text in site.items()}
    assert linked("`docs/qpu.md` and docs/qpu.md", "qpu.md", titles) == "`docs/qpu.md` and docs/qpu.md"
    assert linked("    cat docs/qpu.md", "data.md", titles) == "    cat docs/qpu.md"
    assert set(ROOT_PAGES.values()) < set(site)


def test_formulas_are_converted_and_code_is_not(site: dict[str, str]) -> None:
    assert site["method.md"].count('<div class="formula">') > 10
    assert "$" not in re.sub(r"`[^`]*`", "", site["method.md"])
    kept = "```sh\necho $HOME $USER\n```\n\n    $x$\n\n`$x$` costs 5$ and $ 6"
    assert with_formulas(kept, lambda latex, display: "converted") == kept
    assert with_formulas("$a_1*b$|", lambda latex, display: f"<mi>{latex}</mi>") == (
        '<span class="formula"><mi>a&#95;1&#42;b</mi></span>|'
    )


def test_docstrings_become_lists() -> None:
    made = as_markdown("Of it.\n\n    Args:\n        path: where,\n            or not\n\n    >>> 1\n    1\n    ")
    assert made == "Of it.\n\n**Args**\n\n- `path`: where, or not\n\n```pycon\n>>> 1\n1\n```"
    assert as_markdown("No list: two words.") == "No list: two words."
    with pytest.raises(ValueError, match="first level"):
        title_of("text", "page.md")
