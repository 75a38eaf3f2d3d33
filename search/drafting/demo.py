"""Builds the demo data: a long-tailed text set from the docstrings of the installed packages; the label is the package.

The packages are pinned by requirements.lock, so every machine builds the same rows. Their sources are read, never
imported.
"""

import ast
import csv
import math
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from fold_search.search.errors import ConfigError
from fold_search.storage.files import whole_file

# From many docstrings to few, so that the Zipf quotas follow what there is.
PACKAGES = (
    "torch", "transformers", "sympy", "databricks", "mlflow", "scipy", "sklearn", "pandas", "sqlalchemy", "matplotlib",
    "networkx", "numpy", "huggingface_hub", "fontTools", "pygments", "pydantic", "narwhals", "graphql", "opentelemetry",
    "sentence_transformers", "gunicorn", "aiohttp", "werkzeug", "git", "psycopg", "PIL", "jinja2", "fsspec", "mpmath",
    "joblib", "pyarrow", "optuna", "docker", "anyio", "alembic", "imblearn", "click", "flask", "cryptography", "mako",
    "typer", "tqdm", "attr", "dateutil", "rich", "urllib3", "uvicorn", "requests", "safetensors", "h11",
)  # fmt: skip
COLUMNS = ("name", "summary", "body", "label")
MIN_ROWS_PER_CLASS = 5

_ALIASES = (
    "pytorch", "huggingface", "scikit-learn", "imbalanced-learn", "pillow", "psycopg2", "np", "pd", "nx", "plt", "sa",
)  # fmt: skip
# A text that names its package, or any other of them, would give the label away.
_NAMED = re.compile(rf"(?<![A-Za-z])(?i:{'|'.join(sorted([*PACKAGES, *_ALIASES], key=len, reverse=True))})(?![a-z])")
_MASK = "package"
_VENDORED = {"_vendor", "vendor", "externals"}
_MOST_CHARACTERS = 2000
_FEWEST_WORDS = 3
_FILES_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """What was written; `counts` holds the rows of each label, from many to few."""

    path: Path
    rows: int
    counts: dict[str, int]

    def __str__(self) -> str:
        labels = list(self.counts)
        span = f"{labels[0]} {self.counts[labels[0]]} ... {labels[-1]} {self.counts[labels[-1]]}"
        return f"{self.path}: {self.rows} rows, {len(labels)} classes ({span})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    name: str
    summary: str
    body: str
    label: str


def build_demo(path: Path, *, rows: int, classes: int, seed: int) -> DemoSummary:
    """Write `rows` documents of the first `classes` packages as CSV with the header name,summary,body,label.

    The classes' sizes follow Zipf's law as far as the packages' documents reach; where all of them hold fewer than
    `rows`, every document is written. Raises ConfigError, one line, where that many cannot be asked for.
    """
    _check(path, rows=rows, classes=classes)
    documents = _choose(rows, PACKAGES[:classes], seed)
    random.Random(seed).shuffle(documents)  # noqa: S311 - reproducible, not secret
    _write(path, documents)
    counts = Counter(document.label for document in documents)
    return DemoSummary(path=path, rows=len(documents), counts=dict(counts.most_common()))


def _check(path: Path, *, rows: int, classes: int) -> None:
    if not 2 <= classes <= len(PACKAGES):
        raise ConfigError(f"classes: found {classes}, expected 2 to {len(PACKAGES)}")
    if rows < classes * MIN_ROWS_PER_CLASS:
        raise ConfigError(f"rows: found {rows}, expected at least {MIN_ROWS_PER_CLASS} for each of {classes} classes")
    if path.is_dir():
        raise ConfigError(f"{path}: found a folder, expected the CSV file to write")


def _choose(rows: int, packages: tuple[str, ...], seed: int) -> list[_Document]:
    """Fill the quotas from the last package to the first, so that larger ones make up for what smaller ones lack."""
    seen: set[str] = set()
    waiting = {package: _documents(package, seed, seen) for package in packages}
    chosen: list[_Document] = []
    for rank in range(len(packages), 0, -1):
        share = (1 / rank) / sum(1 / other for other in range(1, rank + 1))
        quota = max(MIN_ROWS_PER_CLASS, math.floor((rows - len(chosen)) * share))
        chosen += islice(waiting[packages[rank - 1]], quota)
    for package in packages:
        chosen += islice(waiting[package], rows - len(chosen))
    return chosen


def _documents(package: str, seed: int, seen: set[str]) -> Iterator[_Document]:
    """Yield the package's documents in a seeded order, none with a text in `seen`, reading only the files needed."""
    draw = random.Random(f"{seed} {package}")  # noqa: S311 - reproducible, not secret
    files = _sources(package)
    draw.shuffle(files)
    for start in range(0, len(files), _FILES_AT_ONCE):
        found = [document for file in files[start : start + _FILES_AT_ONCE] for document in _read(file, package)]
        draw.shuffle(found)
        for document in found:
            text = f"{document.summary} {document.body}"
            if text not in seen:
                seen.add(text)
                yield document


def _sources(package: str) -> list[tuple[Path, tuple[str, ...]]]:
    """Return the package's source files in order, each with the parts of its module's name below the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package {package} is not installed; for the demo data install requirements.lock")
    root = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(file.relative_to(root) for file in root.rglob("*.py"))
    return [
        (root / file, tuple(part for part in file.with_suffix("").parts if part != "__init__"))
        for file in files
        if _VENDORED.isdisjoint(file.parts)
    ]


def _read(source: tuple[Path, tuple[str, ...]], package: str) -> Iterator[_Document]:
    file, module = source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of others' invalid escapes
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for parts, docstring in _docstrings(tree, module):
        # The path to the module gives the package away nearly always, a class and its method do not.
        name = ".".join(parts[-2:])
        summary, _, body = docstring.strip().partition("\n\n")
        document = _Document(
            name=_clean(name), summary=_clean(summary), body=_clean(body[:_MOST_CHARACTERS]), label=package
        )
        if name and len(document.summary.split()) >= _FEWEST_WORDS:
            yield document


def _docstrings(node: ast.AST, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (qualified name, docstring) of a module, its classes and its functions, nested ones included."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if docstring := ast.get_docstring(node):
            yield parts, docstring
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _docstrings(child, (*parts, child.name))


def _clean(text: str) -> str:
    """One line of text with the packages' names masked; what CSV or UTF-8 cannot carry is dropped."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return _NAMED.sub(_MASK, " ".join(printable.split()))


def _write(path: Path, documents: list[_Document]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((row.name, row.summary, row.body, row.label) for row in documents)
