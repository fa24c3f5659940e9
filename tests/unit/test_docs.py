"""The documentation against the tree: links, paths and folders that pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("helm/*.md"),
        *ROOT.glob("models/*/*.md"),
        *ROOT.glob("clients/*/*.md"),
    ]
)
TOP = (
    "benchmarks",
    "cli",
    "clients",
    "deploy",
    "docs",
    "examples",
    "gateway",
    "helm",
    "models",
    "protos",
    "services",
    "tests",
    "tools",
    "training",
)
PATH = re.compile(rf"(?:{'|'.join(TOP)})/[\w./-]*")
CODE = ("services", "gateway", "cli", "clients", "tools")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The places that a link can name, as code forges make them of headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_paths_in_code_spans_exist(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|^    .*?$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    named = {span for span in re.findall(r"`([^`\n]+)`", prose) if PATH.fullmatch(span)}
    assert not {path for path in named if not (ROOT / path).exists()}


def test_the_readme_shows_every_folder_at_the_top() -> None:
    tree = text_of(ROOT / "README.md").partition("## The tree")[2].partition("\n## ")[0]
    shown = {path.split("/")[0] for path in re.findall(r"^    ([\w/]+)/ ", tree, re.MULTILINE)}
    assert shown == {*TOP, "Dockerfiles"}


def test_the_map_lists_every_folder_of_code() -> None:
    table = text_of(ROOT / "docs" / "architecture.md").partition("## Where things are")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`([\w/]+)`", "".join(rows)))
    folders = {path.parent.relative_to(ROOT) for folder in CODE for path in (ROOT / folder).rglob("*.py")}
    assert {str(folder) for folder in folders} - listed == {"services"}
    assert not [folder for folder in listed if not (ROOT / folder).is_dir()]
