"""The folder of an exported model: written whole or not at all, with its description in words."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

from fold_search.objectives.predicting.exported import DESCRIPTION, Described
from fold_search.objectives.scoring.calibration import fit_temperature
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig, to_record
from fold_search.search.study.rows import HeldOut

OF_THIS_MACHINE = {"storage", "trackers", "artifacts"}


@contextmanager
def model_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which becomes `out` in the end; ConfigError if it cannot be written."""
    unfinished = out.absolute().parent / f".{out.absolute().name}.{uuid.uuid4().hex}"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        _put_in_place(unfinished, out)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_free(out: Path, *, force: bool) -> None:
    """Refuse a folder that is not empty, except an exported model that may be replaced; raises ConfigError."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file, expected the name of a new folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / DESCRIPTION).is_file():
        raise ConfigError(f"{out}: contains files that are not an exported model, expected a new folder")
    if not force:
        raise ConfigError(f"{out}: already contains an exported model; --force replaces it")


def _put_in_place(unfinished: Path, out: Path) -> None:
    """Rename the finished folder; an older model is moved aside first and removed last."""
    if not out.exists() or not any(out.iterdir()):
        unfinished.rename(out)
        return
    old = unfinished.with_name(f"{unfinished.name}.old")
    out.rename(old)
    unfinished.rename(out)
    shutil.rmtree(old)


def write_words(description: Described, config: StudyConfig, folder: Path, *, card: str) -> None:
    """Write model.json, the study file of the model, and the model card."""
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
    sections = {name: keys for name, keys in to_record(config).items() if name not in OF_THIS_MACHINE}
    (folder / "study.yaml").write_text(yaml.safe_dump(sections, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def temperature(held_out: HeldOut) -> float:
    """The temperature fitted to the out-of-fold predictions; 1 if all are right: then none can be fitted."""
    truth = held_out.truth.astype(np.int64)
    if (held_out.predictions.argmax(axis=1) == truth).all():
        return 1.0
    return fit_temperature(held_out.predictions, truth)
