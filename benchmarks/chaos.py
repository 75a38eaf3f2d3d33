"""The long form of the chaos test: studies under fire, one after another, until so many faults have struck.

`python -m benchmarks.chaos --faults 1000 --database sqlite --seed 0`. Every other study is raced; with
`--training real` a tiny encoder is trained in place of scripted curves. The first failed check ends it with what was
found.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.driver import Round, run_round
from tests.chaos.servers import Postgres
from tests.trackers.mlflow_server import MlflowServer


def main() -> None:
    """Run the rounds and print a line each, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--training", choices=["scripted", "real"], default="scripted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=60, help="of each study")
    arguments = parser.parse_args()
    rounds: list[Round] = []
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        postgres = Postgres() if arguments.database == "postgresql" else None
        if postgres:
            stack.callback(postgres.end)
        study = {"num_trials": arguments.trials, "postgres": postgres, "training": arguments.training}
        calm = run_round(_folder(top, "calm"), rule="none", num_faults=0, seed=0, **study)
        while (total := _sum(rounds).total()) < arguments.faults:
            number = len(rounds)
            folder = _folder(top, str(number))
            tracker = MlflowServer(folder / "mlflow.db")
            rule, left = ("none", "paired")[number % 2], arguments.faults - total
            try:
                seed = arguments.seed * 1000 + number
                found = run_round(folder, rule=rule, num_faults=left, seed=seed, tracker=tracker, **study)
            finally:
                tracker.stop()
            assert rule != "none" or found.outcome == calm.outcome, "other scores than without faults"
            rounds.append(found)
            print(f"{time.strftime('%H:%M:%S')} {rule}: {_line([found])}", flush=True)
    print(
        f"all {len(rounds)} studies: {_line(rounds)}; {os.times().children_user + os.times().children_system:.0f} CPU s"
    )
    print(", ".join(f"{name} {times}" for name, times in _sum(rounds).most_common()))


def _folder(top: Path, name: str) -> Path:
    folder = top / name
    folder.mkdir()
    return folder


def _sum(rounds: list[Round]) -> "Counter[str]":
    return sum((found.struck for found in rounds), Counter())


def _line(rounds: list[Round]) -> str:
    return (
        f"{_sum(rounds).total()} faults, {sum(found.restarts for found in rounds)} restarts, "
        f"{sum(found.found.epochs for found in rounds)} epochs, {sum(found.found.lost_leases for found in rounds)} "
        f"leases lost, {sum(found.found.repeated for found in rounds)} epochs begun again, "
        f"{sum(len(found.left_over) for found in rounds)} files left over"
    )


if __name__ == "__main__":
    main()
