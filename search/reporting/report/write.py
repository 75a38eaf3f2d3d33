"""Where a report goes: a page, files for other programs, or JSON."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fold_search.search.errors import ConfigError
from fold_search.search.reporting.diagnosis.report import REPORTS, safe_name
from fold_search.search.reporting.report.facts import Facts
from fold_search.search.reporting.report.page import render
from fold_search.search.reporting.summary import best_as_json, trials_as_rows
from fold_search.search.study.opened import OpenStudy
from fold_search.search.terminal import visible
from fold_search.storage.files import whole_file

_OF_RUNS = ("trial", "fold", "state", "score", "best_epoch", "num_epochs", "attempt", "seconds", "failure", "reason")
_OF_EPOCHS = ("trial", "fold", "epoch", "score", "standing", "seconds")


def report_file(study: str) -> Path:
    """The file of this study's report, unless another is asked for."""
    return REPORTS / f"{safe_name(study)}.html"


def check_out(out: Path) -> None:
    """Refuse what cannot be written, before anything is computed; raises ConfigError."""
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a folder, expected the name of a file such as report.html")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out.with_name(f"{out.name}.try")) as beside:
            beside.touch()
        out.with_name(f"{out.name}.try").unlink()
    except OSError as error:
        raise _unwritable("--out", out, error) from None


def write_page(facts: Facts, out: Path) -> None:
    """Write the page, whole or not at all; raises ConfigError."""
    page = render(facts)
    try:
        with whole_file(out) as beside:
            beside.write_text(page, encoding="utf-8")
    except OSError as error:
        raise _unwritable("--out", out, error) from None


def write_csv(study: OpenStudy, folder: Path) -> list[Path]:
    """Write trials.csv, folds.csv and epochs.csv with all that is recorded; raises ConfigError."""
    runs = [{name: getattr(run, name) for name in _OF_RUNS} for run in study.ledger.fold_runs()]
    epochs = study.ledger.epochs()
    metrics = list(dict.fromkeys(name for epoch in epochs for name in epoch.metrics))
    tables = {
        "trials.csv": trials_as_rows(study.ledger),
        "folds.csv": runs,
        "epochs.csv": [
            {name: getattr(epoch, name) for name in _OF_EPOCHS} | {name: epoch.metrics.get(name) for name in metrics}
            for epoch in epochs
        ],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in tables.items():
            with whole_file(folder / name) as beside:
                _write(rows, beside)
    except OSError as error:
        raise _unwritable("--csv", folder, error) from None
    return [folder / name for name in tables]


def _write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: visible(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows)


def as_json(facts: Facts, study: OpenStudy) -> dict[str, Any]:
    """Return what the page shows in numbers, with plain types; the diagnosis is `search diagnose`'s."""
    return {
        **facts.summary.as_json(),
        "best_trial": best_as_json(study.ledger),
        "compared": [asdict(row) for row in facts.compared],
        "importance": None if facts.importance is None else asdict(facts.importance),
        "pauses": [asdict(pause) for pause in facts.pauses],
        "seconds": facts.seconds,
    }


def _unwritable(option: str, path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{option}: {path} cannot be written: {error.strerror}")
