"""`search diagnose` on ledgers whose fold runs, losses and predictions are written down beforehand."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, classification_report, f1_score, log_loss

from fold_search.objectives.data.dataset import read_dataset
from fold_search.objectives.params import TrainingParams
from fold_search.objectives.scoring.calibration import apply_temperature
from fold_search.search.cli import app
from fold_search.search.errors import ConfigError
from fold_search.search.reporting.diagnosis.calibration import trained_shares
from fold_search.search.reporting.diagnosis.evidence import read_evidence
from fold_search.search.reporting.diagnosis.findings import Diagnosis, diagnose
from fold_search.search.reporting.diagnosis.generalisation import correlate
from fold_search.search.reporting.diagnosis.report import write_report
from fold_search.search.reporting.diagnosis.sections import sections
from fold_search.search.study.config import StudyConfig, to_record
from fold_search.search.study.opened import find
from fold_search.storage.artifacts import Artifacts
from fold_search.storage.catalog import create_study
from fold_search.storage.database import connect, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import BaselineRecord, FoldRunState, TrialState
from tests.claims import claim_first

NUM_FOLDS = 3
LABELS = ["a", "b", "c", "d"] * 9  # 36 rows; the last class is never predicted
PLANTED = 17  # the row, from 0, that is called "b" and looks like an "a"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """A written-down epoch."""

    epoch: int
    metrics: Mapping[str, float]
    score: float = 0.5
    standing: float = 0.5
    seconds: float = 0.1


def losses(train: float, val: float, running: float) -> dict[str, float]:
    return {"train_loss": train, "val_loss": val, "train_loss_running": running}


@dataclass
class WrittenStudy:
    """A study of these rows, to which trials are added with their predictions of all rows, (rows, classes)."""

    folder: Path
    labels: Sequence[str]
    texts: Sequence[str] | None = None
    name: str = "written"
    sections: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.url = f"sqlite:///{self.folder / 'study.db'}"
        path = self.folder / "data.csv"
        with path.open("w", newline="") as file:
            texts = self.texts or [f"text {number}" for number in range(len(self.labels))]
            csv.writer(file).writerows([("text", "label"), *zip(texts, self.labels, strict=True)])
        config = StudyConfig.model_validate(
            {
                "data": {"path": path, "label": "label", "text": "text"},
                "model": {"encoder": "none"},
                "space": {"dropout": {"low": 0.0, "high": 0.5}},
                "storage": {"url": self.url, "artifacts": str(self.folder / "artifacts")},
            }
            | dict(self.sections)
        )
        dataset = read_dataset(config.data)
        self.assignments = np.arange(len(self.labels), dtype=np.int16) % NUM_FOLDS
        self.truth = dataset.labels
        engine = connect(self.url)
        migrate(engine)
        record = create_study(
            engine,
            name=self.name,
            config=to_record(config),
            metric=config.study.metric,
            direction="maximize",
            fingerprints={"data": dataset.fingerprint},
            provenance={},
            assignments=self.assignments,
        )
        self.ledger = Ledger(engine, record.id)
        self.artifacts = Artifacts(config.storage.artifacts)

    def add_trial(
        self,
        predictions: NDArray[Any],
        *,
        folds: Sequence[int] = range(NUM_FOLDS),
        score: float = 0.5,
        epochs: Sequence[Mapping[str, float]] = (losses(1.0, 1.2, 1.3),),
        best_epoch: int = 1,
        sample: Callable[[int], dict[str, Any]] | None = None,
        **params: Any,
    ) -> int:
        """Train `folds` as written; the trial is complete with all of them, else it is still running."""
        number = len(self.ledger.trials())
        self.ledger.add_trial(number, params)
        for fold in range(NUM_FOLDS):
            claim = claim_first(self.ledger, "test", lease_seconds=60)
            assert claim is not None
            if fold not in folds:
                continue
            if sample is not None:
                self.ledger.record_sample(claim, sample(fold))
            for epoch, metrics in enumerate(epochs, start=1):
                self.ledger.record_epoch(claim, Epoch(epoch=epoch, metrics=metrics), checkpoint=None)
            name = f"trial-{number}-{fold}.npy"
            self.store(name, predictions[self.assignments == fold])
            self.ledger.finish_fold(claim, FoldRunState.DONE, score=score, best_epoch=best_epoch, predictions=name)
        if len(folds) == NUM_FOLDS:
            self.ledger.finish_trial(number, TrialState.COMPLETE, score=score, std=0.0)
        return number

    def store(self, name: str, array: NDArray[Any]) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array.astype(np.float32))
        self.artifacts.put(name, buffer.getvalue())

    def diagnose(self, trial: int | None = None) -> Diagnosis:
        return diagnose(read_evidence(find(self.name, url=self.url), trial=trial))

    def search(self, *options: str) -> Any:
        return CliRunner().invoke(app, ["diagnose", "--study", self.name, "--storage", self.url, *options])


@pytest.fixture
def study(tmp_path: Path) -> WrittenStudy:
    """A study of 36 rows of four classes, without a trial."""
    return WrittenStudy(tmp_path, LABELS)


def planted(study: WrittenStudy) -> NDArray[np.float64]:
    """Right but for class d, which is always taken for c, and for the planted row."""
    predicted = np.where(study.truth == 3, 2, study.truth)
    predicted[PLANTED] = 0
    probabilities = np.full((len(predicted), 4), 0.05)
    probabilities[np.arange(len(predicted)), predicted] = 0.85
    probabilities[PLANTED] = [0.98, 0.001, 0.018, 0.001]
    return probabilities


def noisy(rows: int, classes: int = 4, *, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), size=rows)


def words(diagnosis: Diagnosis, title: str) -> str:
    [section] = [section for section in sections(diagnosis) if section.title == title]
    return " ".join(section.sentences)


def test_classes_confusions_and_label_errors_are_those_that_were_planted(study: WrittenStudy):
    """The class never predicted, the pair it goes to, and the row of the file whose label is wrong."""
    study.add_trial(planted(study))
    found = study.diagnose().classes
    assert found is not None
    assert [(score.label, score.rows) for score in found.never_predicted] == [("d", 9)]
    assert [(p.label, p.predicted, p.count, p.share) for p in found.confusions] == [
        ("d", "c", 9, 1.0),
        ("b", "a", 1, pytest.approx(1 / 9)),
    ]
    first = found.suspects[0]
    assert (first.row, first.label, first.predicted, first.text) == (PLANTED + 1, "b", "a", f"text {PLANTED}")
    assert first.probability == pytest.approx(0.001)
    assert len(found.suspects) == 10


def test_class_scores_are_scikit_learns(study: WrittenStudy):
    """Precision, recall and F1 of every class, worst first."""
    predictions = noisy(len(LABELS))
    study.add_trial(predictions)
    found = study.diagnose().classes
    assert found is not None
    report = classification_report(study.truth, predictions.argmax(axis=1), output_dict=True, zero_division=0)
    assert [score.f1 for score in found.scores] == sorted(score.f1 for score in found.scores)
    for score in found.scores:
        theirs = report[str("abcd".index(score.label))]
        assert (score.precision, score.recall, score.f1, score.rows) == pytest.approx(tuple(theirs.values()))


def test_pooled_scores_stand_beside_the_mean_over_folds(study: WrittenStudy):
    """All rows at once, and the mean and sample deviation of the folds' own scores."""
    predictions = noisy(len(LABELS))
    study.add_trial(predictions)
    found = {score.metric: score for score in study.diagnose().scores}
    predicted = predictions.argmax(axis=1)
    by_fold = [
        f1_score(study.truth[mine], predicted[mine], average="macro", zero_division=0)
        for mine in (study.assignments == fold for fold in range(NUM_FOLDS))
    ]
    macro = found["macro_f1"]
    assert macro.pooled == pytest.approx(f1_score(study.truth, predicted, average="macro"))
    assert (macro.mean, macro.std) == pytest.approx((np.mean(by_fold), np.std(by_fold, ddof=1)))
    assert found["accuracy"].pooled == pytest.approx(accuracy_score(study.truth, predicted))
    assert found["log_loss"].pooled == pytest.approx(log_loss(study.truth, predictions), abs=1e-5)
    assert {"class_f1", "micro_f1_without_negative", "mae", "top_k_accuracy"} & set(found) == set()


def test_the_gap_is_that_of_the_best_epoch_and_explains_the_printed_loss(study: WrittenStudy):
    """Training above validation loss as printed, below it on equal footing."""
    epochs = [losses(2.0, 2.1, 3.0), losses(0.5, 0.8, 1.1), losses(0.1, 0.9, 0.4)]
    study.add_trial(planted(study), epochs=epochs, best_epoch=2)
    found = study.diagnose()
    gap = found.gaps[0]
    assert (gap.best_epoch, gap.gap, gap.excess) == (2, pytest.approx(0.3), pytest.approx(0.6))
    assert found.curves[2].train_loss_running == (3.0, 1.1, 0.4)
    told = words(found, "Generalisation gap, both losses with dropout off")
    assert "above the validation loss in 3 of 3 folds, the training loss with dropout off in 0" in told


def test_dropout_is_related_to_the_gap_over_the_trials_of_one_loss(tmp_path: Path):
    """More dropout, less gap and more excess: a trial with another loss is left out."""
    study = WrittenStudy(
        tmp_path, LABELS, sections={"space": {"dropout": {"low": 0.0, "high": 0.5}, "loss": ["cross_entropy", "focal"]}}
    )
    for place, dropout in enumerate([0.0, 0.1, 0.2, 0.3, 0.4]):
        epochs = [losses(1.0, 2.0 - dropout, 1.0 + (dropout if place < 4 else 0.25))]
        study.add_trial(planted(study), epochs=epochs, dropout=dropout, loss="cross_entropy")
    study.add_trial(planted(study), epochs=[losses(0.0, 9.0, 0.0)], dropout=0.5, loss="focal")
    found = study.diagnose(trial=0).dropout
    assert found.gap is not None
    assert found.excess is not None
    assert (found.gap.rho, found.gap.n, found.num_other_losses) == (pytest.approx(-1.0), 5, 1)
    assert found.gap.p_value == pytest.approx(2 / 120)
    assert found.excess.rho == pytest.approx(spearmanr([0, 1, 2, 3, 4], [0, 0.1, 0.2, 0.3, 0.25]).statistic)


def test_a_rank_correlation_and_its_p_value_are_scipys():
    """With ties, and with so many pairs that the usual formula holds."""
    random = np.random.default_rng(1)
    one = random.integers(0, 8, size=60).astype(float)
    other = one + random.normal(0, 8, size=60)
    found, theirs = correlate(one.tolist(), other.tolist()), spearmanr(one, other)
    assert found is not None
    assert found.rho == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)


@pytest.mark.parametrize(
    ("space", "dropouts", "reason"),
    [
        ({"epochs": {"low": 1, "high": 5}}, [0.1] * 5, "dropout was not searched: it is 0.1 in every trial"),
        ({"dropout": {"low": 0.0, "high": 0.5}}, [0.1, 0.2, 0.3], "expected at least 4"),
        ({"dropout": {"low": 0.0, "high": 0.5}}, [0.2] * 4, "dropout is 0.2 in every complete trial"),
    ],
)
def test_where_dropout_tells_nothing_the_reason_is_given(
    tmp_path: Path, space: dict[str, Any], dropouts: list[float], reason: str
):
    """Not searched, too few trials, one value."""
    study = WrittenStudy(tmp_path, LABELS, sections={"space": space})
    for dropout in dropouts:
        study.add_trial(planted(study), **({"dropout": dropout} if "dropout" in space else {}))
    found = study.diagnose()
    assert found.dropout.gap is None
    assert reason in words(found, "Dropout and the gap")


def test_a_known_temperature_is_found_and_takes_the_error_away(tmp_path: Path):
    """Labels drawn from probabilities that the model reports at a temperature of 1 / 2.5."""
    random = np.random.default_rng(0)
    honest = random.dirichlet(np.full(4, 0.8), size=3000)
    drawn = [str(random.choice(list("abcd"), p=row)) for row in honest]
    study = WrittenStudy(tmp_path, drawn)
    study.add_trial(apply_temperature(honest, 1 / 2.5))
    found = study.diagnose().calibration
    assert found is not None
    assert found.temperature == pytest.approx(2.5, rel=0.1)
    before, scaled = found.ways[0], found.ways[1]
    assert (before.name, scaled.name) == ("as trained", "temperature scaling")
    assert before.expected_calibration_error > 0.1
    assert scaled.expected_calibration_error < 0.03
    assert scaled.log_loss == pytest.approx(log_loss(study.truth, honest), abs=0.01)
    assert before.log_loss > scaled.log_loss + 0.1


def test_the_prior_correction_goes_by_what_each_fold_trained_on(tmp_path: Path):
    """Posteriors under balanced classes become those of the data's own shares, fold by fold."""
    random = np.random.default_rng(0)
    labels = [*"a" * 600, *"b" * 150]
    random.shuffle(labels)
    study = WrittenStudy(tmp_path, labels)
    odds = np.exp(2 * np.where(study.truth == 1, 1, -1) + random.normal(0, 2, size=len(labels)))
    balanced = np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)

    def sample(fold: int) -> dict[str, Any]:
        counts = np.bincount(study.truth[study.assignments != fold]).tolist()
        return written_sample(counts, [max(counts)] * 2)

    study.add_trial(balanced, sample=sample)
    found = study.diagnose().calibration
    assert found is not None
    expected = np.empty_like(balanced)
    for fold in range(NUM_FOLDS):
        mine = study.assignments == fold
        ratio = np.mean(study.truth[~mine] == 1) / np.mean(study.truth[~mine] == 0)
        expected[mine, 1] = odds[mine] * ratio / (1 + odds[mine] * ratio)
        expected[mine, 0] = 1 - expected[mine, 1]
    [corrected] = [way for way in found.ways if way.name == "prior correction"]
    assert corrected.log_loss == pytest.approx(log_loss(study.truth, expected), abs=1e-5)
    assert corrected.log_loss < found.ways[0].log_loss


def test_there_is_no_prior_correction_where_nothing_was_shifted_or_nobody_knows(tmp_path: Path):
    """The reason is given in its place."""
    study = WrittenStudy(tmp_path, LABELS)
    study.add_trial(planted(study))
    study.add_trial(planted(study), sampler="random_over")
    assert "used the class shares of the data" in words(study.diagnose(trial=0), "Calibration")
    assert "are not recorded" in words(study.diagnose(trial=1), "Calibration")


def test_the_loss_shifts_the_shares_that_probabilities_are_pulled_to():
    """Inverse frequency and logit adjustment with tau 1 make them even; plain cross entropy leaves them."""
    counts, names = np.array([90, 9, 1]), ["a", "b", "c"]

    def shares(**settings: Any) -> NDArray[np.float64]:
        return trained_shares(counts, params=TrainingParams(**settings), label_names=names)

    assert shares() == pytest.approx(counts / 100)
    assert shares(class_weights="inverse_frequency") == pytest.approx([1 / 3] * 3)
    assert shares(loss="logit_adjusted") == pytest.approx([1 / 3] * 3)
    assert shares(loss="logit_adjusted", adjustment_tau=0.0) == pytest.approx(counts / 100)
    assert shares(class_weights={"a": 1, "b": 2, "c": 2}) == pytest.approx(np.array([90, 18, 2]) / 110)


def written_sample(before: Sequence[int], after: Sequence[int], *, leaked: int = 0) -> dict[str, Any]:
    return {
        "num_rows_in": sum(before),
        "num_rows_out": sum(before),
        "num_synthetic": 0,
        "num_validation_rows_used": leaked,
        "counts_before": list(before),
        "counts_after": list(after),
    }


@pytest.mark.parametrize(
    ("leaked", "told"), [(0, "Leak check: no fold trained on a row"), (2, "LEAK: 6 validation rows")]
)
def test_the_leak_proof_is_shown_and_a_leak_is_called_one(study: WrittenStudy, leaked: int, told: str):
    """Counts by class before and after sampling, and the validation rows that were used."""
    study.add_trial(planted(study), sample=lambda fold: written_sample([6] * 4, [6, 6, 6, 12 + fold], leaked=leaked))
    found = study.diagnose()
    [section] = [section for section in sections(found) if section.title == "What each fold trained on"]
    assert told in section.sentences[0]
    assert ("d", "6 → 12", "6 → 13", "6 → 14") in section.tables[1].rows
    assert ("a", "6", "6", "6") in section.tables[1].rows


def test_the_best_complete_trial_is_taken_unless_one_is_named(study: WrittenStudy):
    """A running trial with finished folds is diagnosed by those, and it says so."""
    study.add_trial(planted(study), score=0.4)
    study.add_trial(planted(study), score=0.6)
    study.add_trial(planted(study), score=0.9, folds=[0, 2])
    assert study.diagnose().trial == 1
    partial = study.diagnose(trial=2)
    assert (partial.folds, partial.num_rows) == ((0, 2), 24)
    assert "of 3 folds only 0, 2" in study.search("--trial", "2", "--out", str(study.folder / "out")).output


def test_one_fold_is_enough_for_everything_but_the_temperature(study: WrittenStudy):
    """Nothing is fitted on the rows that it is applied to, so it is left out with the reason."""
    study.add_trial(planted(study), folds=[1])
    found = study.diagnose(trial=0)
    assert found.calibration is not None
    assert found.calibration.temperature is None
    assert "only one fold is done" in words(found, "Calibration")
    assert write_report(found, study.folder / "report").exists()


def damage(study: WrittenStudy) -> None:
    study.artifacts.put("trial-0-1.npy", b"\x93NUMPY, and then the disk was full")


def reshape(study: WrittenStudy) -> None:
    study.store("trial-0-1.npy", np.ones((12, 3)))


def change_data(study: WrittenStudy) -> None:
    path = study.folder / "data.csv"
    path.write_text(path.read_text().replace("text 3", "other 3"))


@pytest.mark.parametrize(
    ("spoil", "options", "expected"),
    [
        (None, ["--trial", "7"], "--trial: found 7, but study 'written' has trials 0 to 1"),
        (None, ["--trial", "1"], "trial 1 of study 'written' has no finished fold; trials with a finished fold: 0"),
        (damage, [], "trial 0, fold 1: the stored predictions 'trial-0-1.npy' are damaged"),
        (reshape, [], "have shape (12, 3), expected (12, 4)"),
        (lambda study: study.artifacts.delete("trial-0-1.npy"), [], "there is no such artifact"),
        (change_data, [], "the data has changed since the study began"),
        (None, ["--out", "/dev/null/report"], "--out: /dev/null/report cannot be written"),
        (None, ["--set", "training.epochs=9"], "training.epochs: 4 -> 9"),
    ],
)
def test_what_cannot_be_diagnosed_ends_with_one_line(
    study: WrittenStudy, spoil: Callable[[WrittenStudy], None] | None, options: list[str], expected: str
):
    """The trial, the file or the option, what was found and what was expected; exit code 2."""
    study.add_trial(planted(study))
    study.add_trial(planted(study), folds=[])
    if spoil:
        spoil(study)
    result = study.search(*(options or ["--trial", "0"]))
    assert result.exit_code == 2, result.output
    [line] = result.output.strip().splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_a_study_without_a_complete_trial_names_those_that_can_be_diagnosed(study: WrittenStudy):
    """And says that there is none where there is none."""
    with pytest.raises(ConfigError, match=r"no complete trial.*no trial of the study has a finished fold yet"):
        study.diagnose()
    study.add_trial(planted(study), folds=[1])
    with pytest.raises(ConfigError, match=r"no complete trial.*trials with a finished fold: 0"):
        study.diagnose()


@pytest.fixture
def numbers(tmp_path: Path) -> WrittenStudy:
    """A study of 60 rows with the label 0 to 59."""
    return WrittenStudy(
        tmp_path,
        [str(number) for number in range(60)],
        sections={
            "data": {"path": tmp_path / "data.csv", "label": "label", "text": "text", "task": "regression"},
            "training": {"loss": "mse"},
            "study": {"metric": "r2"},
        },
    )


def test_a_numeric_label_has_residuals_instead_of_classes(numbers: WrittenStudy):
    """Predictions half way to the middle: too high at the low end, too low at the high end, by as much."""
    predictions = (numbers.truth + 29.5) / 2
    predictions[40] = 400.0
    numbers.add_trial(predictions[:, None])
    found = numbers.diagnose()
    assert (found.classes, found.calibration) == (None, None)
    assert found.residuals is not None
    assert [tenth.bias for tenth in found.residuals.tenths][::9] == pytest.approx([13.5, -13.5])
    assert (found.residuals.far_off[0].row, found.residuals.far_off[0].predicted) == (41, 400.0)
    assert {score.metric for score in found.scores} == {"mae", "mse", "r2"}
    assert "are left out" in words(found, "Residuals")
    page = write_report(found, numbers.folder / "report")
    assert imread(page.with_name("residuals.png")).shape[2] == 4


class Page(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_runs_nothing_from_the_data(tmp_path: Path):
    """Labels and texts that are HTML, rich's markup, mathematics, other scripts and control characters stay text."""
    names = ["<script>alert(1)</script>", "[red]b[/red]", "$c_1$ 관계", "d\x1b[31m"]
    labels = [names["abcd".index(label)] for label in LABELS]
    texts = [f"<img src=x onerror=alert({number})> [link=x]y[/link]" for number in range(len(labels))]
    study = WrittenStudy(tmp_path, labels, texts, name="<b>../x")
    study.add_trial(noisy(len(labels)))
    result = study.search("--out", str(tmp_path / "report"))
    assert result.exit_code == 0, result.output
    assert "[red]b[/red]" in result.output
    assert "\x1b" not in result.output
    page = Page((tmp_path / "report" / "index.html").read_text())
    assert {"script", "b", "link", "iframe"} & {tag for tag, _ in page.tags} == set()
    assert all(attributes["src"].startswith("data:image/png;base64,") for tag, attributes in page.tags if tag == "img")
    assert sum(tag == "img" for tag, _ in page.tags) == 3
    assert names[0] in page.text
    assert "<img src=x onerror=alert(" in page.text


def test_a_picture_of_many_classes_shows_the_most_confused(tmp_path: Path):
    """Sixty classes make a square of 25, and every picture is there as a file."""
    labels = [f"a class with a rather long name {number % 60:02}" for number in range(360)]
    study = WrittenStudy(tmp_path, labels)
    for number, dropout in enumerate([0.0, 0.1, 0.3, 0.5]):
        study.add_trial(noisy(len(labels), 60, seed=number), dropout=dropout, epochs=[losses(1, 2 + dropout, number)])
    page = write_report(study.diagnose(), tmp_path / "report")
    for name in ("losses", "dropout", "confusion", "reliability"):
        height, width, _ = imread(page.with_name(f"{name}.png")).shape
        assert min(height, width) > 300


def test_the_baselines_stand_above_what_the_trial_learnt(study: WrittenStudy):
    """In the terminal, on the page and in the JSON."""
    study.add_trial(planted(study))
    scores = {"score": 0.5, "std": 0.01, "pooled": 0.4, "fold_scores": (0.49, 0.51)}
    study.ledger.record_baseline(BaselineRecord(name="tf-idf", label="TF-IDF", **scores))
    line = "baselines: TF-IDF 0.5000 ± 0.0100"
    assert line in study.search("--out", str(study.folder / "report")).output
    assert line in (study.folder / "report" / "index.html").read_text()
    assert json.loads(study.search("--json").output)["baselines"][0]["fold_scores"] == [0.49, 0.51]


def test_json_is_valid_whatever_is_missing(study: WrittenStudy):
    """NaN is null; nothing is written but what --out asks for."""
    study.add_trial(planted(study), epochs=[{"train_loss": 1.0, "val_loss": float("nan")}])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(study.search("--json").output, parse_constant=refuse)
    assert found["gaps"][0] == {
        "fold": 0, "best_epoch": 1, "train_loss": 1.0, "val_loss": None, "gap": None, "train_loss_running": None,
        "excess": None,
    }  # fmt: skip
    assert found["classes"]["never_predicted"][0]["label"] == "d"
    assert not (study.folder / "studies").exists()


def test_the_report_lies_beside_the_study_and_needs_no_torch(study: WrittenStudy):
    """In studies/reports/NAME-trial-N, from a process that never imports torch."""
    study.add_trial(planted(study))
    program = (
        "import sys; from fold_search.search.cli import app;"
        f"app(['diagnose', '--study', 'written', '--storage', {study.url!r}], standalone_mode=False)"
    )
    check = f"try:\n    {program}\nfinally:\n    assert 'torch' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{check}"], cwd=study.folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "report: studies/reports/written-trial-0/index.html" in result.stdout
    assert (study.folder / "studies/reports/written-trial-0/losses.png").exists()
