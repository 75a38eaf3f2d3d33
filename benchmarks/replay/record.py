"""Record a set of sets.yaml: train every configuration on every fold, then write the curves with the test scores.

`python -m benchmarks.replay.record SET --folds 5 10 --data FOLDER --work FOLDER --out FOLDER [--trials 100]`: `search
run` without a race, then `search export-curves`. --data is the folder of the data sets by name; docstrings need none.
"""

import argparse
import copy
import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.replay.recorded import SETS

TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
}


def main() -> None:
    """Record one set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--folds", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    work = arguments.work.absolute() / arguments.name
    work.mkdir(parents=True, exist_ok=True)
    declared = yaml.safe_load(SETS.read_text(encoding="utf-8"))
    chosen = declared["sets"][arguments.name]
    prepare(chosen, data=arguments.data, work=work)
    for num_folds in arguments.folds:
        study = f"{arguments.name}-{num_folds}"
        file = work / f"{study}.yaml"
        sections = study_sections(declared, chosen, data=arguments.data) | {"folds": {"k": num_folds}}
        sections["budget"] = {"trials": arguments.trials}
        file.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
        search("run", "--study", study, "--config", file.name, "--workers", str(arguments.workers), work=work)
        out = (arguments.out / f"{study}.npz").absolute()
        search("export-curves", "--study", study, "--test", "test.csv", "--out", str(out), work=work)


def search(*words: str, work: Path) -> None:
    """Run a command of the service in the set's folder."""
    subprocess.run([str(Path(sys.executable).with_name("search")), *words], cwd=work, check=True)


def study_sections(declared: dict[str, Any], chosen: dict[str, Any], *, data: Path | None) -> dict[str, Any]:
    """Return the study file of a set, but for its folds and its budget."""
    source = {"path": "train.csv", "label": "label"}
    study = copy.deepcopy(declared["study"])
    for section, key in (("space", "learning_rate"), ("training", "epochs")):
        if key in chosen:
            study[section][key] = chosen[key]
    if "image" in chosen:
        model = declared["image"]["model"] | {"encoder": "config:vit.json"}
        assert data is not None
        images = str((data / chosen["data"] / "images.zip").absolute())
        return {**study, "data": source | {"image": chosen["image"], "images": images}, "model": model}
    own = {key: chosen[key] for key in ("max_length", "trainable_layers") if key in chosen}
    model = declared["text"]["model"] | own
    return {**study, "data": source | {"text": chosen["text"]}, "model": model}


def prepare(chosen: dict[str, Any], *, data: Path | None, work: Path) -> None:
    """Write train.csv and test.csv, each with the share of every class that its file has."""
    if "image" in chosen:
        (work / "vit.json").write_text(json.dumps(TINY_VIT), encoding="utf-8")
    if (work / "test.csv").exists():
        return
    if chosen["data"] == "docstrings":
        rows = chosen["rows"] + chosen["test_rows"]
        search("data", "demo", "--out", "all.csv", "--rows", str(rows), "--classes", str(chosen["classes"]), work=work)
        table = pd.read_csv(work / "all.csv", dtype=str, keep_default_na=False)
        train = draw(table, chosen["rows"])
        test = table.drop(index=train.index)
    else:
        assert data is not None
        train, test = (
            draw(read(data / chosen["data"] / f"{part}.csv.gz"), chosen.get(limit))
            for part, limit in (("train", "rows"), ("test", "test_rows"))
        )
    for part, rows_of_it in (("train", train), ("test", test)):
        rows_of_it.to_csv(work / f"{part}.csv", index=False, quoting=csv.QUOTE_MINIMAL)


def read(path: Path) -> pd.DataFrame:
    """Read a gzipped CSV file as text."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)


def draw(table: pd.DataFrame, size: int | None) -> pd.DataFrame:
    """Draw about `size` rows, of every class its share and at least one, in the file's order."""
    if size is None or size >= len(table):
        return table
    random = np.random.default_rng(0)
    chosen: list[int] = []
    for _, rows in table.groupby("label", sort=True):
        count = max(1, round(len(rows) * size / len(table)))
        chosen += random.choice(rows.index.to_numpy(), count, replace=False).tolist()
    return table.loc[sorted(chosen)]


if __name__ == "__main__":
    main()
