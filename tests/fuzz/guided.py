"""Coverage-guided fuzzing: atheris (libFuzzer) looks for bytes that lead the readers of files somewhere new.

`python -m tests.fuzz.guided` lists the targets; with one of them and any options of libFuzzer
(`d.csv -max_total_time=60`) it fuzzes. A target is a file, whose reader is given the bytes as they are, or a test
beside this file, which is given what hypothesis makes of them. What led somewhere stays in build/fuzz/TARGET, what
failed is build/fuzz/TARGET-crash-..., -timeout-... or -oom-...: such a file in place of the options is tried again.
"""

import importlib
import inspect
import io
import json
import pkgutil
import shutil
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import atheris

INSTRUMENTED = ["search", "objectives", "models", "storage", "yaml", "tarfile", "zipfile", "numpy.lib._format_impl"]
with atheris.instrument_imports(INSTRUMENTED):
    import numpy as np
    from hypothesis import given

    import fold_search.search
    from tests.fuzz import conftest  # noqa: F401 - the tests' settings
    from tests.fuzz import test_backups as backups
    from tests.fuzz import test_command_line as commands
    from tests.fuzz import test_data_files as data
    from tests.fuzz import test_predictions as predictions
    from tests.fuzz import test_study_files as studies

    for module in pkgutil.iter_modules(
        fold_search.search.__path__, "fold_search.search."
    ):  # commands import what they need when they run
        importlib.import_module(module.name)

FOUND = Path("build/fuzz")
LIMITS = ["-timeout=30", "-rss_limit_mb=4096", "-max_len=1000000", "-print_final_stats=1"]


def read_table(folder: Path, content: bytes, *, name: str) -> None:
    (folder / name).write_bytes(content)
    data.check_read(folder / name)


def predict_csv(folder: Path, model: Any, content: bytes) -> None:
    predictions.check_predicted(model, folder / "p.csv", content)


def restore(backup: backups.BackedUp, content: bytes) -> None:
    backup.check_restored(content)


def restore_database(backup: backups.BackedUp, content: bytes) -> None:
    backup.check_restored(backup.packed(content))


def array() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros((1, 2, 3), np.float32))
    return content.getvalue()


# Each with a valid file to begin with.
READERS: dict[str, tuple[Callable[..., object], Callable[..., bytes]]] = {
    "study.yaml": (studies.test_study_files_with_other_bytes, lambda: studies.FILE),
    "model.json": (commands.test_model_descriptions, lambda: json.dumps(commands.DESCRIPTION_OF_A_MODEL).encode()),
    "template.yaml": (predictions.test_templates, lambda: json.dumps(predictions.TEMPLATE).encode()),
    "images.zip": (data.test_images, lambda: data.zipped(data.picture("red"))),
    "curves.npz": (data.test_arrays, data.arrays),
    "array.npy": (data.test_arrays, array),
    "p.csv": (predict_csv, lambda: data.CSV),
    "backup.tar": (restore, lambda backup: backup.file),
    "study.db": (restore_database, lambda backup: backup.members["study.db"]),
    **{name: (partial(read_table, name=name), lambda name=name: data.FILES[name]) for name in data.FILES},
}
TESTS = {
    test.__name__: test
    for test in (
        *(studies.test_study_files_with_other_values, studies.test_overrides, commands.test_options),
        *(data.test_jsonl_with_other_values, data.test_relations, data.test_a_label_may_be_anything),
        *(predictions.test_rows_to_predict, backups.test_backups_with_other_cells),
    )
}
FIXTURES = {"folder": Path, "model": cache(predictions.trained), "backup": cache(backups.BackedUp)}


def with_fixtures(function: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Give a function those of the tests' fixtures that it asks for."""
    asked = inspect.signature(function).parameters.keys() & FIXTURES.keys()
    return partial(function, **{name: FIXTURES[name](folder) for name in asked})


def target(name: str, folder: Path) -> tuple[Callable[[bytes], object], bytes]:
    """What is fuzzed, and what it begins with; KeyError if there is none of that name."""
    if name in TESTS:
        drawn = TESTS[name].hypothesis
        given_fixtures = with_fixtures(drawn.inner_test, folder)
        return given(**drawn._given_kwargs)(lambda **values: given_fixtures(**values)).hypothesis.fuzz_one_input, b""
    read, valid = READERS[name]
    given_fixtures = with_fixtures(read.hypothesis.inner_test if hasattr(read, "hypothesis") else read, folder)
    return lambda content: given_fixtures(content=content), with_fixtures(valid, folder)()


def main(name: str, options: list[str]) -> None:
    """Fuzz one target, from what earlier runs left; libFuzzer ends the process."""
    known, folder = FOUND / name, (FOUND / "files" / name).absolute()
    known.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run, valid = target(name, folder)
    (known / "valid").write_bytes(valid)
    tried_again = bool(options) and not options[-1].startswith("-")
    corpus = [] if tried_again else [str(known)]
    atheris.Setup([name, *LIMITS, f"-artifact_prefix={FOUND}/{name}-", *options, *corpus], run)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1], sys.argv[2:])
    else:
        print(*READERS, *TESTS, sep="\n")  # noqa: T201
