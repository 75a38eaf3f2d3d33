"""`search predict` and `search evaluate`: an exported model on a file of any size."""

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from fold_search.objectives.data.class_folders import FILE, FOLDER, is_class_folders
from fold_search.objectives.data.dataset import Content, Labels, content_of, read_chunks, read_labels, require_columns
from fold_search.objectives.data.delimited import check_delimiter
from fold_search.objectives.data.sources import Quotes
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.data.tables import Chunk
from fold_search.objectives.errors import DataError
from fold_search.objectives.predicting.baseline import BaselineDescription, ExportedBaseline, is_baseline
from fold_search.objectives.predicting.exported import Described, Description, ExportedModel
from fold_search.objectives.scoring.defined import defined_metrics
from fold_search.objectives.scoring.metrics import score_all
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.layout import Layout
from fold_search.search.reporting.steps import Steps
from fold_search.search.running.objective import choose_device
from fold_search.storage.files import whole_file
from fold_search.words import nearest

ROWS_PER_CHUNK = 4096
NUM_DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherFile:
    """How a file differs from the study's."""

    columns: Mapping[str, str] = field(default_factory=dict)  # the file's column for each of the study's
    images: Path | None = None  # what image paths are relative to; None: the file's folder
    encoding: str | None = None  # None: UTF-8, or what a byte order mark says
    quotes: Quotes | None = None  # None: as in the study if it has the format of the study's file, else "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A percentile bootstrap interval over the rows (Efron 1979)."""

    metric: str
    low: float
    high: float
    level: float = LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well a model predicts labelled rows."""

    rows: int
    scores: dict[str, float]
    interval: Interval


class Model(Protocol):
    """An exported model, a trial's or a baseline."""

    @property
    def description(self) -> Described:
        """What its folder says of it."""

    def predict(
        self, content: Content, *, step: Callable[[str], None] = ..., advance: Callable[[int], None] = ...
    ) -> NDArray[np.float32]:
        """Return probabilities, (rows, classes), or numbers, (rows, 1); raises DataError.

        `step` is told what is done, `advance` how many more rows are predicted.
        """


def load_model(folder: Path, *, batch_size: int | None = None) -> Model:
    """Open a model folder on this machine's first GPU, else the CPU; raises ModelError if it cannot be used."""
    if is_baseline(folder):
        return ExportedBaseline(folder)
    return ExportedModel(folder, device=choose_device(0), batch_size=batch_size)


def is_image_folder(description: Described, path: Path) -> bool:
    """Whether the path is a folder or zip file of images, whose rows have the columns `file` and `folder`."""
    return description.data.kind == "image" and is_class_folders(path)


def parse_columns(options: Sequence[str]) -> dict[str, str]:
    """Return the file's column for each of the study's columns in `--columns STUDY=FILE,...`; raises ConfigError."""
    columns: dict[str, str] = {}
    for part in (part for option in options for part in option.split(",")):
        own, _, theirs = part.partition("=")
        if not own or not theirs or own in columns:
            raise ConfigError(
                f"--columns: found {part!r}, expected STUDY=FILE, with each column of the study only once"
            )
        columns[own] = theirs
    return columns


def predict(
    model: Model,
    path: Path,
    out: Path,
    *,
    layout: Layout,
    other: OtherFile = OtherFile(),
    steps: Steps,
) -> int:
    """Write the predictions of the file's rows as CSV, whole or not at all, and return how many there are.

    Raises DataError if the file is damaged or lacks a column, ConfigError if `out` cannot be written.
    """
    if out.suffix != ".csv":
        raise ConfigError(f"--out: found {out.name}, expected a name that ends in .csv")
    if out.exists() and path.exists() and out.samefile(path):
        raise ConfigError(f"--out: found {out}, which is the data file")
    spec = _spec(model.description, path, other)
    num_rows = 0
    with _written(out) as write:
        write.writerow(layout.columns)
        for chunk, predictions in _predictions(model, spec, columns=other.columns, also=layout.read, steps=steps):
            write.writerows(layout.rows(chunk, predictions, model.description.label_names))
            num_rows += len(predictions)
    return num_rows


def evaluate(model: Model, path: Path, *, other: OtherFile = OtherFile(), steps: Steps) -> Evaluation:
    """Score the predictions of the file's labelled rows by all metrics that are defined for them.

    The interval is of macro-F1, or of the mean absolute error of numbers.
    Raises DataError as `predict` does, and for labels that the model does not know.
    """
    description = model.description
    spec = _spec(description, path, other, labelled=True)
    truth: list[Labels] = []
    predictions = []
    for chunk, predicted in _predictions(model, spec, columns=other.columns, labelled=True, steps=steps):
        truth.append(read_labels(chunk, spec, description.label_names))
        predictions.append(predicted)
    steps.step("scoring")
    labels: Any = np.concatenate(truth)
    return _evaluate(description, labels, np.concatenate(predictions))


def evaluation_as_json(evaluation: Evaluation, description: Described) -> dict[str, object]:
    """The evaluation in plain types, beside what the study estimated."""
    return {**asdict(evaluation), "study": {"pooled": description.pooled, "fold_scores": description.fold_scores}}


def render_evaluation(evaluation: Evaluation, description: Described) -> Table:
    """The evaluation as a table, beside what the study estimated from the rows that each fold was not trained on."""
    interval = evaluation.interval
    span = f"{interval.metric} in {interval.low:.4f} to {interval.high:.4f} ({interval.level:.0%})"
    model = "a model"
    if isinstance(description, BaselineDescription):
        model = f"the baseline {description.label}"
    elif isinstance(description, Description):
        model = f"trial {description.trial}"
    title = f"{model} of study {description.study}: {evaluation.rows:,} rows; {span}"
    table = Table("metric", "this file", "out of fold", title=Text(title))
    for name, score in evaluation.scores.items():
        pooled = description.pooled.get(name)
        table.add_row(name, f"{score:.4f}", "-" if pooled is None else f"{pooled:.4f}")
    return table


def _evaluate(description: Described, truth: Labels, predictions: NDArray[np.float32]) -> Evaluation:
    goal = description.goal
    names = defined_metrics(goal, task=description.task, num_classes=len(description.label_names))
    random = np.random.default_rng(0)
    if description.task == "classification":
        metric, drawn = "macro_f1", draw_macro_f1(truth.astype(np.int64), predictions, random)
    else:
        metric, drawn = "mae", _draw_mae(truth, predictions, random)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Evaluation(
        rows=len(truth),
        scores=score_all(names, truth, predictions, goal),
        interval=Interval(metric=metric, low=float(low), high=float(high)),
    )


def draw_macro_f1(
    truth: NDArray[np.int64], predictions: NDArray[np.float32], random: np.random.Generator
) -> list[float]:
    """Macro-F1 of rows drawn with replacement: the counts of a confusion matrix's cells are then multinomial."""
    num_classes = predictions.shape[1]
    cells = np.bincount(truth * num_classes + predictions.argmax(axis=1), minlength=num_classes**2)
    drawn = []
    for _ in range(NUM_DRAWS):
        matrix = random.multinomial(len(truth), cells / len(truth)).reshape(num_classes, num_classes)
        either = matrix.sum(axis=0) + matrix.sum(axis=1)
        drawn.append(float((2 * matrix.diagonal()[either > 0] / either[either > 0]).mean()))
    return drawn


def _draw_mae(truth: Labels, predictions: NDArray[np.float32], random: np.random.Generator) -> list[float]:
    errors = np.abs(truth - predictions[:, 0])
    return [float(random.choice(errors, len(errors)).mean()) for _ in range(NUM_DRAWS)]


def _predictions(
    model: Model,
    spec: DataSpec,
    *,
    columns: Mapping[str, str],
    also: tuple[str, ...] = (),
    labelled: bool = False,
    steps: Steps,
) -> Iterator[tuple[Chunk, NDArray[np.float32]]]:
    """Yield each chunk of the file with its predictions, (rows, outputs), and show how much of it is done."""
    needed = (*spec.columns, spec.label) if labelled else spec.columns
    for own in columns:
        if own not in needed:
            raise ConfigError(f"--columns: found {own!r}, expected a column of the study: {', '.join(needed)}")
    steps.step("reading rows")
    for chunk in read_chunks(spec, rows=ROWS_PER_CHUNK):
        chunk = _renamed(chunk, {own: columns.get(own, own) for own in needed}, path=spec.path)
        require_columns(chunk.table, (*needed, *also), spec=spec, first=chunk.first)
        content = content_of(chunk.table, spec, first=chunk.first)
        yield chunk, model.predict(content, step=steps.step, advance=_counting(chunk, steps))
        steps.step("reading rows")


def _counting(chunk: Chunk, steps: Steps) -> Callable[[int], None]:
    """What counts the rows of a chunk, and of those before it; how many the file has is guessed from its length."""
    done = chunk.first - 1
    total = round((done + len(chunk.table)) / chunk.share_read) if chunk.share_read else done + len(chunk.table)

    def advance(num_rows: int) -> None:
        nonlocal done
        done += num_rows
        steps.rows(done, total=total, exact=chunk.share_read == 1.0)

    return advance


def _renamed(chunk: Chunk, columns: Mapping[str, str], *, path: Path) -> Chunk:
    """Rename the file's columns to the study's names. A column of the file that already has that name is ignored."""
    table = chunk.table.copy(deep=False)
    for own, theirs in columns.items():
        if theirs not in chunk.table.columns:
            check_delimiter(path, list(chunk.table.columns))
            close = nearest(theirs, chunk.table.columns)
            there = ", ".join(map(repr, chunk.table.columns))
            advice = f"did you mean {close!r}?" if close else f"there are {there};"
            name = close if close and close.isprintable() else "NAME"
            raise DataError(f"{path}: there is no column {theirs!r}; {advice} use --columns {own}={name}")
        if not isinstance(chunk.table[theirs], pd.Series):
            raise DataError(f"{path}: the header names column {theirs!r} more than once")
        if own != theirs:
            table = table.drop(columns=own, errors="ignore")
        table[own] = chunk.table[theirs]
    return replace(chunk, table=table)


def _spec(description: Described, path: Path, other: OtherFile, *, labelled: bool = False) -> DataSpec:
    """The model's columns in another file; a folder of images has its own, in which only labels are classes."""
    data = description.data
    if other.images is not None and data.kind != "image":
        raise ConfigError(
            f"--images: found {other.images} for a model of {data.kind}s, expected it only for a model of images"
        )
    spec = data.of_file(path, encoding=other.encoding, quotes=other.quotes)
    changes: dict[str, object] = {"images": other.images}
    if is_image_folder(description, path):
        changes |= {"image": FILE, "label": FOLDER if labelled else FILE, "format": None}
    return spec.model_copy(update=changes)


@contextlib.contextmanager
def _written(out: Path) -> Iterator[Any]:
    """Let rows be written to a file that is there when all of them are; ConfigError if it cannot be written."""
    try:
        with whole_file(out) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            yield csv.writer(file)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from None
