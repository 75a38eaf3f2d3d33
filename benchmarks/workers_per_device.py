"""How many workers are worth it on one GPU? `python -m benchmarks.workers_per_device STUDY FOLDER --workers 1 2 4`.

For each number a `search run` of the study file's folder, without a race, under a study of its own; databases and
artifacts under FOLDER. Printed: the epochs a minute from the first that ended to the last, the share of the workers'
time that was training (the rest are models that are built, checkpoints, weights and waiting), and the largest memory
of the device in use.
"""

import argparse
import subprocess
import sys
import threading
from pathlib import Path

import torch
import yaml

from fold_search.storage.catalog import find_study
from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import EventKind


def main() -> None:
    """Run the study once for each number of workers and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--trials-a-worker", type=int, default=2)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print("| workers | epochs | epochs a minute | ratio | training | device memory |\n|---|---|---|---|---|---|")
    base = 0.0
    for num_workers in arguments.workers:
        line, rate = measure(arguments.study, arguments.folder, num_workers, num_workers * arguments.trials_a_worker)
        base = base or rate
        print(line.format(ratio=rate / base), flush=True)


def measure(study: Path, folder: Path, num_workers: int, num_trials: int) -> tuple[str, float]:
    """Return the table's line, but for the ratio, and the epochs a minute."""
    name = f"workers-{num_workers}"
    url = f"sqlite:///{folder.absolute() / name}.db"
    sections = yaml.safe_load(study.read_text(encoding="utf-8"))
    sections |= {"race": {"rule": "none"}, "budget": {"trials": num_trials}, "trackers": {"mlflow": False}}
    sections["storage"] = {
        "url": url,
        "artifacts": str(folder.absolute() / name),
        "cache": str(folder.absolute() / "c"),
    }
    file = study.with_name(f".{name}.yaml")
    file.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    words = ["run", "--study", name, "--config", file.name, "--workers", str(num_workers)]
    command = [str(Path(sys.executable).with_name("search")), *words]
    with Memory() as memory, (folder / f"{name}.txt").open("wb") as output:
        subprocess.run(command, cwd=study.parent, check=True, stdout=output, stderr=output)
    file.unlink()
    ledger = Ledger(engine := connect(url), find_study(engine, name).id)
    ended = [event for event in ledger.events(after=0, limit=10**6) if event.kind is EventKind.EPOCH]
    seconds = ended[-1].at - ended[0].at
    rate = 60 * (len(ended) - 1) / seconds
    share = sum(event.payload["seconds"] for event in ended[1:]) / seconds / num_workers
    used = f"{memory.most / 1e9:.1f} GB" if torch.cuda.is_available() else "-"
    return f"| {num_workers} | {len(ended)} | {rate:.0f} | {{ratio:.2f}} | {share:.0%} | {used} |", rate


class Memory:
    """The largest memory of the first GPU in use meanwhile, in bytes, whoever uses it."""

    def __init__(self) -> None:
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while torch.cuda.is_available() and not self._over.wait(0.5):
            free, total = torch.cuda.mem_get_info(0)
            self.most = max(self.most, total - free)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()


if __name__ == "__main__":
    main()
