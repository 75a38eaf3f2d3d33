"""What nobody needs goes, and nothing else: real files, a real ledger, a real second process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fold_search.objectives.tasks.cache import cached
from fold_search.search.cli import app
from fold_search.search.errors import ConfigError
from fold_search.search.study.stored import weights_name
from fold_search.search.upkeep.cleaning import Waste, find_waste
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.scripted import Script

TOKENS = f"tokens-{'0a' * 16}"


@pytest.fixture
def study(sqlite_url: str, tmp_path: Path) -> Callable[..., ScriptedStudy]:
    """A study that stores into this test's folder."""
    storage = {"artifacts": str(tmp_path / "artifacts"), "cache": str(tmp_path / "cache")}
    return lambda **sections: ScriptedStudy(sqlite_url, tmp_path, storage=storage, race={"rule": "none"}, **sections)


def finished(study: ScriptedStudy) -> ScriptedStudy:
    coordinator = study.coordinator()
    study.run(Script(lambda trial, fold: [0.2, 0.4 + 0.1 * trial]), coordinator)
    coordinator.leave()
    return study


def with_cache(folder: Path) -> Path:
    """A cache folder with an entry, what a killed process left, and a file of somebody else's."""
    cache = folder / "cache"
    for entry in (cache / TOKENS, cache / "tmpab_cd12x" / TOKENS):
        entry.mkdir(parents=True)
        (entry / "ids.npy").write_bytes(bytes(1000))
    for part in (cache / "tmpab_cd12x").rglob("*"):
        os.utime(part, (0, 0))
    os.utime(cache / "tmpab_cd12x", (0, 0))
    (cache / f"images-{'1b' * 16}.npy").write_bytes(bytes(500))
    (cache / "thesis.txt").write_text("not ours")
    return cache


def waste(study: ScriptedStudy, said: list[str] | None = None) -> dict[str, Waste]:
    found = find_waste(study.url, name=None, say=(said if said is not None else []).append)
    return {each.what: each for each in found}


def test_what_a_process_left_when_it_died_goes(study: Callable[..., ScriptedStudy]):
    """Checkpoints and weights that the ledger does not know, unfinished files; what it knows stays."""
    done = finished(study(budget={"trials": 2}))
    before = done.artifacts.names(done.ledger.folder)
    assert waste(done) == {}
    folder = f"{done.ledger.folder}/trial-0/fold-1"
    left = [f"{folder}/{name}" for name in ("checkpoint-1-2.safetensors", "model-1.safetensors", "predictions-1.npz")]
    left.append(f"{folder}/.checkpoint-1-2.safetensors.0123")
    for name in left:
        done.artifacts.put(name, bytes(100))
    found = waste(done)
    assert {what: (each.num_files, each.num_bytes) for what, each in found.items()} == dict.fromkeys(
        ("checkpoints", "weights", "predictions", "unfinished files"), (1, 100)
    )
    assert done.artifacts.names(done.ledger.folder) == sorted(before + left)
    for each in found.values():
        each.remove()
    assert done.artifacts.names(done.ledger.folder) == before


def test_weights_of_a_trial_that_is_not_kept_go(study: Callable[..., ScriptedStudy]):
    """Their process died between the trial's end and the pruning."""
    done = finished(study(budget={"trials": 2}))
    worse = next(run for run in done.ledger.fold_runs() if run.trial == 0)
    done.artifacts.put(weights_name(worse.predictions or ""), bytes(100))
    assert {what: each.num_files for what, each in waste(done).items()} == {"weights": 1}


def test_what_an_unfinished_study_will_need_stays(study: Callable[..., ScriptedStudy], tmp_path: Path):
    """The checkpoints of a fold run that was given back, and the cache; also while nobody works on it."""
    begun = study()
    with_cache(tmp_path)
    begun.ledger.add_trial(0, {"learning_rate": 1e-4})
    script = Script(lambda trial, fold: [0.2, 0.4, 0.6])
    script.on_epoch = lambda trial, fold, epoch: begun.stop.set() if epoch == 2 else None
    begun.worker(script).train(claim_first(begun.ledger, "worker", lease_seconds=60))
    said: list[str] = []
    assert waste(begun, said) == {}
    assert said == [f"{tmp_path}/cache: skipped, because it is needed by 'scripted'"]


def test_a_study_that_is_being_run_is_left_alone(study: Callable[..., ScriptedStudy]):
    """Also if a worker came between the look and the removal."""
    done = finished(study(budget={"trials": 1}))
    done.artifacts.put(f"{done.ledger.folder}/trial-0/fold-1/model-1.safetensors", b"x")
    found = waste(done)["weights"]
    done.ledger.acquire_role("worker/one", "one", lease_seconds=60)
    said: list[str] = []
    assert waste(done, said) == {}
    assert said[0] == "study 'scripted' is running: skipped"
    with pytest.raises(ValueError, match="is running now"):
        found.remove()


def test_a_cache_goes_when_no_study_and_no_process_needs_it(study: Callable[..., ScriptedStudy], tmp_path: Path):
    """Another process that trains from it, of whatever database, holds it; foreign files stay in any case."""
    done, cache = finished(study(budget={"trials": 1})), with_cache(tmp_path)
    code = (
        "import sys; from pathlib import Path; from fold_search.search.running.caches import Hold;"
        "hold = Hold(Path(sys.argv[1])); print(1, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    said: list[str] = []
    assert waste(done, said) == {}
    assert said == [f"{cache}: skipped, because a process is using it"]
    holder.communicate(b"\n")
    found = waste(done)["cache"]
    assert (found.num_files, found.num_bytes) == (3, 2500 + 2 * 128 - 256)
    found.remove()
    assert [path.name for path in cache.iterdir()] == ["thesis.txt"]


def test_what_goes_away_under_a_training_is_computed_anew(tmp_path: Path):
    """Another machine's locks are not seen: an entry is there whole or not at all, and what is mapped stays."""
    code = "from fold_search.search.running.caches import *; import sys, time; print(1, flush=True)\n"
    # Without a pause it could, on a machine with little time for both, remove each entry before it is looked at.
    code += "while True: [remove(path) for path in entries(Path(sys.argv[1]))]; time.sleep(0.001)"
    cache, num_computed = tmp_path / "cache", 0
    sums = dict.fromkeys(("ids", "offsets", "marks", "ranks"), 499_500)

    def compute() -> dict[str, np.ndarray]:
        nonlocal num_computed
        num_computed += 1
        return {name: np.arange(1000) for name in sums}

    cleaner = subprocess.Popen([sys.executable, "-c", code, str(cache)], stdout=subprocess.PIPE)
    try:
        assert cleaner.stdout
        cleaner.stdout.readline()
        found = [cached(cache / TOKENS, compute) for _ in range(300)]
    finally:
        cleaner.kill()
        cleaner.communicate()
    assert num_computed > 10
    assert all({name: int(array.sum()) for name, array in arrays.items()} == sums for arrays in found)


def test_the_command_asks_before_it_removes(study: Callable[..., ScriptedStudy], tmp_path: Path):
    """Without an answer nothing goes; --yes needs none; an unknown study is an error."""
    done, cache = finished(study(budget={"trials": 1})), with_cache(tmp_path)
    command = ["clean", "--storage", done.url]
    refused = CliRunner().invoke(app, command, input="n\n")
    assert f"cache: 3 files in {cache}, 2.5 kB" in refused.output
    assert (cache / TOKENS).exists()
    assert CliRunner().invoke(app, [*command, "--study", "scripted", "--yes"]).output.endswith("deleted\n")
    assert not (cache / TOKENS).exists()
    with pytest.raises(ConfigError, match="no study 'script'"):
        list(find_waste(done.url, name="script", say=print))
