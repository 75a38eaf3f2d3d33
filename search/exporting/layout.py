"""Which columns a file of predictions has: the usual ones, or those that a template names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fold_search.objectives.data.names import quoted, which_label
from fold_search.objectives.data.tables import Chunk
from fold_search.objectives.predicting.exported import Described
from fold_search.search.errors import ConfigError
from fold_search.search.study.study_file import read_yaml
from fold_search.search.study.wording import describe

RANKED = ("label", "probability")
CLASS = "p:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What stands in one column: `of` is a column of the file or a class, `rank` counts classes from the likeliest."""

    kind: str  # row, column, label, probability, class, prediction
    of: str = ""
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of the predictions, in order, and what labels are written as."""

    columns: Mapping[str, Source]
    codes: Mapping[str, str] = field(default_factory=dict)

    @property
    def read(self) -> tuple[str, ...]:
        """The columns of the data file that are copied."""
        return tuple(source.of for source in self.columns.values() if source.kind == "column")

    def rows(self, chunk: Chunk, predictions: NDArray[np.float32], label_names: Sequence[str]) -> Iterator[list[Any]]:
        """Yield the cells of each row of a chunk, of its predictions, (rows, outputs)."""
        cells: list[Sequence[Any]] = []
        ranked = np.argsort(-predictions, axis=1, kind="stable")
        for source in self.columns.values():
            likely = ranked[:, source.rank]
            match source.kind:
                case "row":
                    cells.append(range(chunk.first, chunk.first + len(predictions)))
                case "column":
                    cells.append(chunk.table[source.of].tolist())
                case "label":
                    cells.append([self.codes.get(label_names[label], label_names[label]) for label in likely])
                case "probability":
                    cells.append(_numbers(np.take_along_axis(predictions, likely[:, None], axis=1)[:, 0]))
                case "class":
                    cells.append(_numbers(predictions[:, list(label_names).index(source.of)]))
                case "prediction":
                    cells.append(_numbers(predictions[:, 0]))
        yield from map(list, zip(*cells, strict=True))


class _Template(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, str] = Field(min_length=1)
    labels: dict[str, str] = {}


def usual_layout(
    description: Described, *, keep: Sequence[str] = (), top_k: int | None = None, probabilities: bool = True
) -> Layout:
    """Return row, the kept columns, then label, probability and that of each class, or the `top_k` likeliest pairs.

    A numeric label is one column, prediction. Raises ConfigError where two columns would have one name.
    """
    columns = {"row": Source(kind="row")}
    predicted = _predicted(description, top_k=top_k, probabilities=probabilities)
    for name in keep:
        if name in columns or name in predicted:
            raise ConfigError(
                f"--keep: found {name!r}, which is also a column of the predictions; a template can rename it"
            )
        columns[name] = Source(kind="column", of=name)
    return Layout(columns=columns | predicted)


def read_template(path: Path, description: Described) -> Layout:
    """Return the layout of a template: `columns:` from names to sources, and `labels:` from labels to codes.

    A source is row, label, probability, p:LABEL, prediction (of a numeric label) or a column of the data file. Raises
    ConfigError that names the key.
    """
    try:
        template = _Template.model_validate(read_yaml(path, as_written=True))
    except ValidationError as error:
        # A misspelt key comes before the key that is missing because of it.
        problem = min(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
        raise ConfigError(f"{path}: {describe(problem, _Template)}") from None
    names = description.label_names
    columns = {name: _source(name, text, description, path=path) for name, text in template.columns.items()}
    if template.labels:
        for label in template.labels:
            _check_label(label, names, where=f"{path}: labels")
        for label in names:
            if label not in template.labels:
                raise ConfigError(f"{path}: labels: there is no code for {label!r}")
    return Layout(columns=columns, codes=template.labels)


def _predicted(description: Described, *, top_k: int | None, probabilities: bool) -> dict[str, Source]:
    names = description.label_names
    if description.task == "regression":
        return {"prediction": Source(kind="prediction")}
    if top_k is not None:
        if top_k > len(names):
            raise ConfigError(
                f"--top-k: found {top_k}, expected at most {len(names)}, the number of classes of the model"
            )
        return {f"{kind}_{rank + 1}": Source(kind=kind, rank=rank) for rank in range(top_k) for kind in RANKED}
    pair = {kind: Source(kind=kind) for kind in RANKED}
    return pair | ({f"p_{name}": Source(kind="class", of=name) for name in names} if probabilities else {})


def _source(name: str, text: str, description: Described, *, path: Path) -> Source:
    are_classes = description.task == "classification"
    known = ("row", *RANKED) if are_classes else ("row", "prediction")
    if text in known:
        return Source(kind=text)
    if text in (*RANKED, "prediction"):
        what = "classes" if are_classes else "numbers"
        raise ConfigError(f"{path}: columns.{name}: found {text}, but the model predicts {what}")
    if text.startswith(CLASS):
        label = text.removeprefix(CLASS)
        _check_label(label, description.label_names, where=f"{path}: columns.{name}")
        return Source(kind="class", of=label)
    return Source(kind="column", of=text)


def _check_label(label: str, label_names: Sequence[str], *, where: str) -> None:
    if label not in label_names:
        raise ConfigError(
            f"{where}: found {quoted(label)}, which is not a label of the model; {which_label(label, label_names)}"
        )


def _numbers(values: NDArray[np.float32]) -> list[str]:
    return [f"{value:.7g}" for value in values.tolist()]
