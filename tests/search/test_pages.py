"""What the pages for users tell them to write is what the study file takes."""

import re
from itertools import groupby
from pathlib import Path
from typing import get_args

import pytest
import yaml

from fold_search.objectives.scoring.metrics import METRICS
from fold_search.search.study.config import load_config
from fold_search.search.study.parameters import PARAMETERS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTING = re.compile(r"`((?:study|data|model|training|space|folds|race|budget|trackers): \{[^`]*\})`")
TOOLBOX, METRICS_PAGE = ((ROOT / "docs" / name).read_text() for name in ("toolbox.md", "metrics.md"))


def settings() -> list[tuple[str, str]]:
    """Each line of the pages with settings, all of them together, and where it stands."""
    found = [
        (f"{page.name}:{number}", text)
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), start=1)
        for text in SETTING.findall(line)
    ]
    return [(where, "\n".join(text for _, text in texts)) for where, texts in groupby(found, key=lambda pair: pair[0])]


@pytest.mark.parametrize(("where", "written"), settings())
def test_what_a_page_tells_to_write_can_be_loaded(tmp_path, where, written):
    """All settings of one line together, beside the little that every study file must have."""
    sections = {"data": {"path": "rows.csv", "label": "label", "text": "text"}, "model": {"encoder": "none"}}
    for name, section in yaml.safe_load(written).items():
        sections[name] = sections.get(name, {}) | section
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(sections))
    loaded = load_config(tmp_path / "study.yaml").model_dump(exclude_unset=True)
    assert {name: set(section) for name, section in loaded.items()} == {
        name: set(section) for name, section in sections.items()
    }


def test_the_pages_have_every_loss_sampler_and_metric():
    """Pages that people choose from leave nothing out, but for the metrics of which they name another average."""
    for name in ("loss", "sampler"):
        missing = [value for value in get_args(PARAMETERS[name].field.annotation) if f"`{value}`" not in TOOLBOX]
        assert missing in ([], ["none"])
    averages = re.compile(r"(macro|weighted|micro)_(precision|recall|f1)")
    assert [name for name in METRICS if not averages.fullmatch(name) and f"`{name}`" not in METRICS_PAGE] == []
