"""The demo data: the same rows everywhere, long-tailed, without the label in the text."""

import csv
import subprocess
import sys
from collections import Counter

import pytest

from fold_search.search.drafting import demo
from fold_search.search.drafting.demo import COLUMNS, MIN_ROWS_PER_CLASS, PACKAGES, build_demo
from fold_search.search.errors import ConfigError

SMALL = ("rich", "urllib3", "uvicorn", "h11")


@pytest.fixture
def small_packages(monkeypatch):
    monkeypatch.setattr(demo, "PACKAGES", SMALL)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.csv"
    build_demo(path, rows=120, classes=5, seed=0)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_have_three_texts_and_a_label(rows):
    """Every row has a name, a summary and a label; the body may be empty."""
    assert set(COLUMNS) == set(rows[0])
    assert all(row["name"] and row["summary"] and row["label"] for row in rows)
    assert any(row["body"] for row in rows)


def test_classes_follow_zipf(rows):
    """The first packages in order, the second half as frequent as the first, the third a third of it."""
    counts = Counter(row["label"] for row in rows)
    assert set(PACKAGES[:5]) == set(counts)
    assert pytest.approx([counts[package] for package in PACKAGES[:5]], abs=2) == [52, 26, 17, 13, 12]
    assert counts.total() == 120


def test_no_text_names_a_package(rows):
    """The label cannot be read off the text: packages are masked, in code examples too."""
    texts = " ".join(f"{row['name']} {row['summary']} {row['body']}" for row in rows).casefold()
    assert [package for package in PACKAGES[:5] if f"{package}." in texts or f"import {package}" in texts] == []


def test_no_text_occurs_twice(rows):
    """Copies within and between packages count once."""
    assert len(rows) == len({(row["summary"], row["body"]) for row in rows})


@pytest.mark.usefixtures("small_packages")
def test_same_seed_gives_same_bytes(tmp_path):
    """The file is a function of its size and its seed."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_demo(tmp_path / name, rows=60, classes=3, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.usefixtures("small_packages")
def test_more_rows_than_there_are_gives_all(tmp_path):
    """Asked for too many rows it writes every document, and says how many that are."""
    summary = build_demo(tmp_path / "all.csv", rows=1_000_000, classes=4, seed=0)
    assert 500 < summary.rows < 2000
    assert summary.rows == sum(summary.counts.values())
    assert f"{summary.rows} rows, 4 classes (rich {summary.counts['rich']} ... h11" in str(summary)


@pytest.mark.usefixtures("small_packages")
def test_smallest_class_keeps_a_few_rows(tmp_path):
    """However few rows are asked for, no class is left with fewer than the minimum."""
    summary = build_demo(tmp_path / "few.csv", rows=20, classes=4, seed=0)
    assert min(summary.counts.values()) == MIN_ROWS_PER_CLASS


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        (100, 1, r"classes: found 1, expected 2 to 50"),
        (1000, 51, r"classes: found 51, expected 2 to 50"),
        (24, 5, r"rows: found 24, expected at least 5 for each of 5 classes"),
    ],
)
def test_impossible_sizes_are_refused(tmp_path, rows, classes, message):
    """What cannot be built is refused in one line, and nothing is written."""
    with pytest.raises(ConfigError, match=message):
        build_demo(tmp_path / "demo.csv", rows=rows, classes=classes, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_packages")
def test_missing_package_is_named(tmp_path, monkeypatch):
    """Without the locked packages the message says which one is missing and what to install."""
    monkeypatch.setattr(demo, "PACKAGES", ("h11", "not_installed_anywhere"))
    with pytest.raises(
        ConfigError, match=r"not_installed_anywhere is not installed; for the demo data install requirements\.lock"
    ):
        build_demo(tmp_path / "demo.csv", rows=10, classes=2, seed=0)


def test_packages_are_read_not_imported(tmp_path):
    """The packages' code never runs: building imports none of them."""
    program = (
        "import sys; from pathlib import Path; from fold_search.search.drafting.demo import *;"
        "build_demo(Path(sys.argv[1]), rows=10, classes=2, seed=0);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "demo.csv"], check=False).returncode == 0
