"""The site of docs/: its menu has every page, its commands page every command, and it loads nothing from elsewhere."""

import re
from pathlib import Path
from typing import Any

import click
import markdown
import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from fold_search.search.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)")


def pages_of(nav: Any) -> list[str]:
    """The pages of a menu, which nests lists and names."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(part)]


def commands(group: click.Group, path: str) -> list[str]:
    """The full names of a group's commands, those of groups in it included."""
    found = []
    for name, command in group.commands.items():
        found.append(f"{path} {name}")
        if isinstance(command, click.Group):
            found += commands(command, f"{path} {name}")
    return found


def test_every_page_is_in_the_menu_once():
    menu = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(menu) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_links_of_the_readme_lead_to_files():
    """Those of the pages are checked where the site is built."""
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_commands_page_has_every_command():
    """It is made of the program when the site is built."""
    html = markdown.markdown((DOCS / "commands.md").read_text(), extensions=["attr_list", "tables", "mkdocs-click"])
    headings = re.findall(r"<h[2-4][^>]*>(search[^<]*)</h", html)
    assert sorted(headings) == sorted(["search", *commands(app, "search")])
    assert "\\b" not in html


@pytest.mark.slow
def test_the_site_asks_no_other_server(tmp_path, monkeypatch):
    """No script, style sheet, font or picture comes from elsewhere: a machine without a network shows the pages."""
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    loaded = {address for page in pages for address in LOADED.findall(page.read_text(encoding="utf-8"))}
    assert [address for address in loaded if "//" in address] == []
    styles = "".join(sheet.read_text(encoding="utf-8") for sheet in tmp_path.rglob("*.css"))
    assert re.findall(r"url\([\"']?(?:https?:)?//", styles) == []
