"""What a trial's exported forms are worth: single folds, the best of them, the ensemble and a refit on all rows.

`python -m benchmarks.forms STUDY FOLDER/test.csv.gz` exports a finished study's best trial as `search export` does and
scores the models on a test file that the search never saw. Macro-F1 in percent.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.predicting.exported import DESCRIPTION, Description, ExportedModel, Member
from fold_search.objectives.scoring.metrics import Predictions, score_all
from fold_search.search.exporting.export import export
from fold_search.search.running.objective import choose_device
from fold_search.search.study.opened import find


def main() -> None:
    """Export, predict, print one row of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("test_file", type=Path)
    parser.add_argument("--storage", default="sqlite:///studies/search.db")
    parser.add_argument("--no-refit", action="store_true", help="leave out the refit, which is trained first")
    arguments = parser.parse_args()
    study = find(arguments.study, url=arguments.storage)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ensemble = export(study, folder / "ensemble", form="ensemble", say=print)
        test = read_dataset(ensemble.data.model_copy(update={"path": arguments.test_file, "extra": None}))
        assert tuple(test.label_names) == ensemble.label_names
        votes = [alone(folder / "ensemble", ensemble, member).predict(test) for member in ensemble.members]
        again = "-"
        if not arguments.no_refit:
            export(study, folder / "refit", form="refit", say=print)
            refit = ExportedModel(folder / "refit", device=choose_device(0)).predict(test)
            again = f"{macro_f1(refit, test, ensemble):.1f}"
    folds = [macro_f1(vote, test, ensemble) for vote in votes]
    scores = [member.score or 0.0 for member in ensemble.members]
    best = folds[int(np.argmax(scores))]
    print("| study | cross-validated | single folds | best fold | ensemble | refit |")
    print("|---|---|---|---|---|---|")
    estimate = f"{100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=1):.1f}"
    singles = f"{np.mean(folds):.1f} ({', '.join(f'{score:.1f}' for score in folds)})"
    together = macro_f1(np.mean(votes, axis=0), test, ensemble)
    print(f"| {arguments.study} | {estimate} | {singles} | {best:.1f} | {together:.1f} | {again} |")


def alone(folder: Path, description: Description, member: Member) -> ExportedModel:
    """One of the ensemble's models, its probabilities as they are."""
    one = folder.with_name(member.folder)
    one.mkdir()
    (one / member.folder).symlink_to(folder / member.folder)
    changes = {"members": (member,), "temperature": 1.0}
    (one / DESCRIPTION).write_text(description.model_copy(update=changes).model_dump_json())
    return ExportedModel(one, device=choose_device(0))


def macro_f1(predictions: Predictions, test: Dataset, description: Description) -> float:
    """Macro-F1 on the test rows in percent."""
    return 100 * score_all(["macro_f1"], test.labels, predictions, description.goal)["macro_f1"]


if __name__ == "__main__":
    main()
