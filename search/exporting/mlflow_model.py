"""An exported folder that is an MLflow model as well: MLflow's own files beside the model's, and what they load."""

import shutil
import statistics
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fold_search.models.encoders import quietly
from fold_search.objectives.data.dataset import content_of
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.predicting.exported import Description
from fold_search.search.errors import ConfigError
from fold_search.search.exporting.predict import ROWS_PER_CHUNK, Model, load_model
from fold_search.search.study.environment import Secrets, missing_sign_in, mlflow_uri
from fold_search.search.study.opened import OpenStudy, on_this_machine
from fold_search.storage.trackers.contract import TrackerUnavailable
from fold_search.storage.trackers.mlflow import MlflowTracker, import_quietly

TABLE = Path("table")  # what errors call rows that are in no file
SPAN_ENDS = ("_start", "_end")  # of the columns of an entity: whole numbers


class PyfuncModel:
    """An exported model that predicts tables; what `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return label, probability and that of each class, p_LABEL, or prediction for a numeric label.

        `table` has the columns that the model was trained on, and its index stays; the paths of images start at the
        working directory. Raises DataError as `search predict` does.
        """
        spec = _spec_of_table(self._model.description.data)
        names = self._model.description.label_names
        predictions = np.empty((0, self._model.description.num_outputs), np.float32)
        if len(table):
            predictions = np.concatenate(list(self._predictions(_as_text(table), spec)))
        if self._model.description.task == "regression":
            return pd.DataFrame({"prediction": predictions[:, 0]}, index=table.index)
        labels = np.array(names, dtype=object)[predictions.argmax(axis=1)]
        found = {"label": labels, "probability": predictions.max(axis=1, initial=0.0)}
        return pd.DataFrame(found | dict(zip(_class_columns(names), predictions.T, strict=True)), index=table.index)

    def _predictions(self, table: pd.DataFrame, spec: DataSpec) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(table), ROWS_PER_CHUNK):
            part = table.iloc[start : start + ROWS_PER_CHUNK]
            yield self._model.predict(content_of(part, spec, first=start + 1))


def _load_pyfunc(path: str) -> PyfuncModel:
    """MLflow's name for what loads a model folder."""
    return PyfuncModel(load_model(Path(path)))


def write_mlflow_files(folder: Path, description: Description) -> None:
    """Write what makes an MLflow model of an exported folder: MLmodel, its requirements and an example of its input.

    A single model's encoder becomes the flavour `transformers`, which does without a classifier's head.
    """
    import_quietly()
    # MLflow's own: of its type hints, and of pandas.
    with warnings.catch_warnings(action="ignore"), TemporaryDirectory(dir=folder.parent) as scratch:
        import mlflow.pyfunc
        from mlflow.models import Model

        # Without data_path the loader is given the folder that MLmodel is in.
        mlflow.pyfunc.save_model(
            path=scratch,
            loader_module=__name__,
            signature=_signature(description),
            input_example=example(description.data, *description.entity_types[:1]),
            pip_requirements=requirements(description),
        )
        shutil.copytree(scratch, folder, dirs_exist_ok=True)
    model = Model.load(str(folder))
    if len(description.members) == 1:
        _add_encoder(model, folder, description)
    model.model_size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    model.save(str(folder / "MLmodel"))


def register(study: OpenStudy, folder: Path, description: Description, *, name: str, overrides: Sequence[str]) -> str:
    """Make the folder the next version of the registered model `name` in the study's MLflow, and return its number.

    Raises ConfigError if MLflow cannot take it.
    """
    uri, secrets = on_this_machine(study.record, overrides).trackers.mlflow.uri, Secrets.read()
    score = statistics.fmean(description.fold_scores)
    said = f"{description.form} of trial {description.trial}: {description.goal.metric} {score:.4f}, cross-validated"
    said += f"; provisional: {description.provisional}" if description.provisional else ""
    try:
        tracker = MlflowTracker(mlflow_uri(uri, secrets))
        return tracker.register(study.record, folder, trial=description.trial, name=name, description=said)
    except TrackerUnavailable as error:
        advice = "; ".join(filter(None, (missing_sign_in(uri, secrets), "--force exports and registers again")))
        raise ConfigError(f"--register: {folder} is exported, but not registered: {error}; {advice}") from None


def _signature(description: Description) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    found = [("float", "prediction")]
    if description.task == "classification":
        numbers = ("probability", *_class_columns(description.label_names))
        found = [("string", "label"), *(("float", name) for name in numbers)]
    return ModelSignature(
        inputs=Schema([ColSpec(_type(name, description.data), name) for name in description.data.columns]),
        outputs=Schema([ColSpec(*column) for column in found]),
    )


def example(spec: DataSpec, entity_type: str = "TYPE") -> pd.DataFrame:
    """One row of words that stand in nobody's data."""
    if spec.relation is None:
        return pd.DataFrame({name: [f"the {name}" if spec.image is None else "image.png"] for name in spec.columns})
    sentence, *entities = spec.relation.columns
    last = 0 if spec.relation.end_inclusive else 1
    cells = [cell for name in "AB" for cell in (name, 3 * "AB".index(name), 3 * "AB".index(name) + last, entity_type)]
    return pd.DataFrame([["A, B", *cells]], columns=[sentence, *entities])


def _type(column: str, spec: DataSpec) -> str:
    return "long" if spec.relation is not None and column.endswith(SPAN_ENDS) else "string"


def requirements(description: Description) -> list[str]:
    """The packages whose versions decide what is predicted, without the build that one machine has of them."""
    needed = {"images": description.data.kind == "image", "korean": description.params.model.morphemes != "none"}
    extras = ",".join(name for name, is_needed in needed.items() if is_needed)
    named = {"fold-search": f"fold-search[{extras}]" if extras else "fold-search"}
    versions = {name: version.partition("+")[0] for name, version in description.packages.items()}
    return [f"{named.get(name, name)}=={version}" for name, version in versions.items()]


def _add_encoder(model: Any, folder: Path, description: Description) -> None:
    """Let the flavour `transformers` load the only member's encoder, where that is one, of text."""
    if description.data.kind == "image" or description.params.model.architecture == "columns":
        return
    import transformers
    from mlflow.transformers.flavor_config import build_flavor_config

    [member] = description.members
    with quietly():
        pipeline = transformers.pipeline("feature-extraction", model=str(folder / member.folder))
    settings = build_flavor_config(pipeline)
    for name in settings["components"]:
        getattr(pipeline, name).save_pretrained(folder / "components" / name)
    settings |= {"model_binary": member.folder, "source_model_name": description.params.model.encoder}
    model.add_flavor("transformers", transformers_version=transformers.__version__, code=None, **settings)


def _spec_of_table(spec: DataSpec) -> DataSpec:
    changes = {"path": TABLE, "extra": None, "format": None}
    return spec.model_copy(update=changes | ({} if spec.image is None else {"images": Path()}))


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell as text, a missing one as "": as files are read."""
    return table.astype(object).where(table.notna(), "").map(str)


def _class_columns(names: Sequence[str]) -> list[str]:
    return [f"p_{name}" for name in names]
