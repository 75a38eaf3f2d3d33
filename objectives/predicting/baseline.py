"""A TF-IDF baseline as a folder that predicts by itself: terms as JSON, numbers as safetensors, no pickles."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fold_search.objectives.baselines.linear import Linear
from fold_search.objectives.baselines.texts import Analyzer, TextModel, baseline_texts
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.data.relations import Form, read_relations
from fold_search.objectives.errors import ModelError
from fold_search.objectives.predicting.exported import (
    HEAD,
    Described,
    check_files,
    digest_file,
    parse_description,
    read_model_json,
)
from fold_search.objectives.scoring.calibration import apply_temperature

TERMS = "terms.json"
KIND = "baseline"  # the key of model.json that only a baseline has


class BaselineDescription(Described):
    """What `model.json` says of a baseline."""

    baseline: Literal["tf-idf"]
    label: str  # for people
    analyzer: Analyzer
    entity_form: Form  # in which relations are shown
    entity_types: tuple[str, ...] = ()
    note: str | None = None  # what was left out in training


class ExportedBaseline:
    """A baseline's folder that was checked: the mean of its members' predictions, as of other exported models.

    Raises ModelError if the folder is none, is damaged or was written in another format.
    """

    def __init__(self, folder: Path) -> None:
        self.description = parse_description(folder, read_model_json(folder), BaselineDescription)
        self._members = []
        for member in self.description.members:
            check_files(folder / member.folder, member.checksums)
            self._members.append(_read(folder / member.folder, self.description))

    def predict(
        self,
        content: Content,
        *,
        step: Callable[[str], None] = lambda name: None,
        advance: Callable[[int], None] = lambda num_rows: None,
    ) -> NDArray[np.float32]:
        """Return probabilities at the fitted temperature, (rows, classes), or numbers, (rows, 1).

        `step` is told what is done, `advance` how many more rows are predicted. Raises DataError if the rows are of
        another kind than those that the model was trained on.
        """
        described = self.description
        step("predicting")
        if content.spec.relation is not None:
            read_relations(content, form=described.entity_form, known_types=described.entity_types)
        texts = baseline_texts(content, form=described.entity_form)
        mean: NDArray[np.float32] = np.stack([model.predict(texts) for model in self._members]).mean(axis=0)
        advance(len(texts))
        if described.task == "regression":
            return mean
        return apply_temperature(mean, described.temperature).astype(np.float32)


def is_baseline(folder: Path) -> bool:
    """Whether the folder of an exported model holds a baseline; raises ModelError if it holds no model."""
    return KIND in read_model_json(folder)


def write_baseline(model: TextModel, folder: Path) -> dict[str, str]:
    """Write a model's files into a new folder; returns the sha256 of each."""
    folder.mkdir()
    (folder / TERMS).write_text(json.dumps(model.terms, ensure_ascii=False), encoding="utf-8")
    linear = model.linear
    arrays = {"idf": model.idf, "weights": linear.weights, "intercepts": linear.intercepts}
    # float32: the probabilities differ by less than a millionth.
    save_file({name: array.astype(np.float32) for name, array in arrays.items()}, folder / HEAD)
    (folder / HEAD).chmod(folder.stat().st_mode & 0o666)  # as the files beside it
    return {name: digest_file(folder / name) for name in (HEAD, TERMS)}


def _read(folder: Path, described: BaselineDescription) -> TextModel:
    num_outputs = len(described.label_names) or 1
    try:
        terms: Any = json.loads((folder / TERMS).read_text(encoding="utf-8"))
        arrays = {name: array.astype(np.float64) for name, array in load_file(folder / HEAD).items()}
        linear = Linear(weights=arrays["weights"], intercepts=arrays["intercepts"])
        shapes = arrays["idf"].shape, linear.weights.shape, linear.intercepts.shape
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: is damaged: {error}") from None
    is_list = isinstance(terms, list) and all(isinstance(term, str) for term in terms)
    if not is_list or shapes != ((len(terms),), (num_outputs, len(terms)), (num_outputs,)):
        raise ModelError(f"{folder}: {HEAD} and {TERMS} do not fit each other")
    return TextModel(analyzer=described.analyzer, terms=tuple(terms), idf=arrays["idf"], linear=linear)
