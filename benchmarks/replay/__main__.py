"""Compare rules on recorded curves.

`python -m benchmarks.replay FOLDER --rules none early_stopping_cv median paired:risk=0.1 --folds 3 5 10 --order
random tpe --workers 1 8 --studies 50` prints Markdown: a table for each setting, one line a rule, and what rules
stated against what was observed. FOLDER holds files of `search export-curves`, NAME-K.npz; K = 3 of a set of 5 are
its first 3 folds. All studies of a set share its trials; with --trials 50 and --shuffle-folds they differ in which
trial is the best, too.
"""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.replay.outcomes import Studies, compare
from benchmarks.replay.recorded import read_sets
from benchmarks.replay.rules import rule_of
from benchmarks.replay.synthetic import KINDS, synthetic
from benchmarks.replay.tables import calibration, comparison
from fold_search.search.errors import ConfigError


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="recorded curves")
    parser.add_argument("--synthetic", type=int, default=0, metavar="N", help="add N synthetic sets of each kind")
    parser.add_argument("--rules", nargs="+", default=["none"], metavar="RULE[:KEY=VALUE,...]")
    parser.add_argument("--folds", type=int, nargs="+", default=[5])
    parser.add_argument("--order", nargs="+", choices=["random", "tpe"], default=["random"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--studies", type=int, default=50, help="of each set and setting")
    parser.add_argument("--trials", type=int, help="of a study; all recorded ones without it")
    parser.add_argument("--shuffle-folds", action="store_true", help="another order of the folds in each study")
    parser.add_argument("--unit", choices=["epoch", "second"], default="epoch", help="what work is counted in")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="only these")
    parser.add_argument(
        "--role", choices=["tuning", "reporting", "confirming"], help="only the sets that sets.yaml gives this role"
    )
    parser.add_argument("--per-set", action="store_true", help="a table for each set as well")
    parser.add_argument("--processes", type=int)
    arguments = parser.parse_args()
    try:
        sets = read_sets(arguments.folder, role=arguments.role, names=arguments.sets)
        rules = {text: rule_of(text) for text in arguments.rules}
    except (ConfigError, ValueError) as error:
        parser.error(str(error))
    for kind in KINDS if arguments.synthetic else ():
        for seed in range(arguments.synthetic):
            sets[f"{kind} {seed}"] = [synthetic(kind=kind, num_folds=max(arguments.folds), seed=seed)]
    if not sets:
        parser.error(f"no curves in {arguments.folder}, expected NAME-K.npz of the sets that were asked for")
    fewest = min(len(curves.final) for name in sets for curves in sets[name])
    if arguments.trials and arguments.trials > fewest:
        parser.error(f"--trials: found {arguments.trials}, expected at most the {fewest} that are recorded")
    studies = Studies(
        sets=sets,
        folds=arguments.folds,
        orders=arguments.order,
        workers=arguments.workers,
        num_studies=arguments.studies,
        num_trials=arguments.trials,
        unit=arguments.unit,
        shuffle_folds=arguments.shuffle_folds,
    )
    start = time.perf_counter()
    outcomes = list(compare(studies, rules, processes=arguments.processes))
    print(comparison(outcomes))
    if arguments.per_set:
        print("\n" + comparison(outcomes, per_set=True))
    print("\n" + calibration(outcomes))
    print(f"{len(outcomes)} studies of {len(sets)} sets in {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
