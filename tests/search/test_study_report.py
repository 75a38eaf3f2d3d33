"""`search report` on ledgers whose fold runs and predictions are written down beforehand."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fold_search.search.cli import app
from fold_search.search.reporting.report.answer import searched
from fold_search.search.reporting.report.charts import charts
from fold_search.search.reporting.report.comparison import escape, latex
from fold_search.search.reporting.report.facts import Facts, gather
from fold_search.search.study.opened import find
from fold_search.storage.records import BaselineRecord, Failure, FoldRunState, TrialState
from tests.claims import claim_first
from tests.end_to_end.browser import open_page, shown, wait_for_text
from tests.search.many_trials import write_many
from tests.search.test_diagnose import LABELS, NUM_FOLDS, Epoch, WrittenStudy, losses, noisy, planted

SECRET = "nobody-else-knows-this"
OWN = "document.title='owned'"
MARKUP = f"</script><script>{OWN}</script><img src=x onerror={OWN}>"
SPACE = {
    "dropout": {"low": 0.0, "high": 0.5},
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "loss": ["cross_entropy", "focal"],
}
TFIDF = BaselineRecord(name="tf-idf", label="TF-IDF + linear model", score=0.7, std=0.02, fold_scores=(0.68, 0.7, 0.72))


class Page(HTMLParser):
    """A page as a person reads it, and what it would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.data: dict[str, Any] = {}
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = [tag]
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "script":
            self.scripts.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if self._open[:1] == ["script"]:
            if self.scripts[-1].get("type") == "application/json":
                self.data[str(self.scripts[-1]["id"])] = json.loads(data, parse_constant=self.fail)
        elif self._open[:1] != ["style"]:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = []

    def fail(self, constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def add(study: WrittenStudy, score: float, *, predictions: Any = None, **params: Any) -> int:
    """A complete trial whose folds differ a little, with three epochs each."""
    predictions = noisy(len(LABELS)) if predictions is None else predictions
    number = len(study.ledger.trials())
    study.ledger.add_trial(number, params)
    scores = [score - 0.01, score, score + 0.01]
    for fold, own in enumerate(scores):
        claim = claim_first(study.ledger, "test", lease_seconds=60)
        assert claim is not None
        for epoch in (1, 2, 3):
            now = own - 0.1 / epoch + 0.1 / 3
            study.ledger.record_epoch(
                claim, Epoch(epoch=epoch, metrics=losses(1.0, 1.2, 1.3), score=now, standing=now), checkpoint=None
            )
        name = f"trial-{number}-{fold}.npy"
        study.store(name, predictions[study.assignments == fold])
        study.ledger.finish_fold(claim, FoldRunState.DONE, score=own, best_epoch=3, predictions=name)
    study.ledger.finish_trial(number, TrialState.COMPLETE, score=score, std=0.01, pooled=score)
    return number


def stop(study: WrittenStudy, score: float, *, reason: str = "0.4% chance to beat it", **params: Any) -> int:
    """A trial that was paused after its first epoch, went on, and was stopped after its second."""
    number = len(study.ledger.trials())
    study.ledger.add_trial(number, params)
    for epoch in (1, 2):
        claim = study.ledger.claim_run("test", trial=number, fold=0, lease_seconds=60)
        assert claim is not None
        now = score - 0.1 / epoch
        study.ledger.record_epoch(claim, Epoch(epoch=epoch, metrics={}, score=now, standing=now), checkpoint="c")
        if epoch == 1:
            study.ledger.finish_fold(claim, FoldRunState.PAUSED, reason="another trial is worth more")
    study.ledger.finish_trial(number, TrialState.STOPPED, estimate=score, reason=reason, chance=0.004)
    return number


def params(number: int) -> dict[str, Any]:
    random = np.random.default_rng(number)
    rate = float(10 ** random.uniform(-5, -2))
    return {
        "dropout": float(random.uniform(0, 0.5)),
        "learning_rate": rate,
        "loss": ["cross_entropy", "focal"][number % 2],
    }


def fill(study: WrittenStudy) -> None:
    """Ten trials, the third of which is best, then the first; four are stopped. And a baseline."""
    for number, score in enumerate([0.78, 0.6, 0.8, 0.5, 0.55, 0.61]):
        add(study, score, predictions=planted(study) if score == 0.8 else None, **params(number))
    for number, score in enumerate([0.4, 0.45, 0.3, 0.35], start=6):
        stop(study, score, **params(number))
    study.ledger.record_baseline(TFIDF)


@pytest.fixture
def study(tmp_path: Path) -> WrittenStudy:
    """A study of 36 rows of four classes, without a trial."""
    return WrittenStudy(tmp_path, LABELS, sections={"space": SPACE, "folds": {"k": NUM_FOLDS}})


def report(study: WrittenStudy, *options: str) -> Result:
    return CliRunner().invoke(app, ["report", "--study", study.name, "--storage", study.url, *options])


def written(study: WrittenStudy, *options: str) -> str:
    out = study.folder / "report.html"
    result = report(study, "--out", str(out), *options)
    assert result.exit_code == 0, result.output
    return out.read_text(encoding="utf-8")


def facts_of(study: WrittenStudy) -> Facts:
    return gather(find(study.name, url=study.url))


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (2.0, "1.00 to 3.00 worker hours for 10 trials; the truth is within it"),
        (0.5, "the truth is 0.5 times its lower end"),
        (4.5, "the truth is 1.5 times its upper end"),
    ],
)
def test_the_forecast_stands_beside_the_truth(study: WrittenStudy, hours: float, expected: str):
    """Of a study that is finished."""
    fill(study)
    facts = facts_of(study)
    used = replace(facts.summary.used, hours=hours, unit="worker hours")
    forecast = {"trials": 10, "workers": 1, "gpu_hours": [1.0, 3.0]}
    summary = replace(facts.summary, state="finished", forecast=forecast, used=used)
    [table] = searched(replace(facts, summary=summary)).tables
    assert expected in dict(table.rows)["forecast"]


def test_the_page_begins_with_the_answer(study: WrittenStudy):
    """The best trial and its score, then what that is worth beside a baseline, and the ties."""
    fill(study)
    page = Page(written(study))
    text = page.text
    answers = (
        "Trial 2 is the best of 10 trials so far: macro_f1 0.8000 ± 0.0100",
        "the best trial is better than TF-IDF + linear model by more than the noise between folds",
        "Tied with the best within the noise between folds: no other trial",
        "TF-IDF + linear model 0.7000 ± 0.0200 worse by 0.1000",
        "What was searched, and what it took",
        "which parameters matter",
    )
    places = [text.casefold().find(answer.casefold()) for answer in answers]
    assert -1 not in places
    assert places == sorted(places)


def test_the_sentence_for_a_paper_says_how_it_was_found(study: WrittenStudy):
    """Trials, folds, scores, the baseline and the test."""
    fill(study)
    text = Page(written(study)).text
    assert "We searched dropout, learning_rate, loss over 10 trials proposed by TPE (Optuna)" in text
    assert "each scored by 3-fold stratified cross-validation" in text
    assert "4 trials of them were stopped early" in text
    assert "a macro_f1 of 0.800 ± 0.010" in text
    assert "against 0.700 ± 0.020 of the baseline TF-IDF + linear model on the same folds (two-sided corrected" in text


def test_a_better_baseline_is_said_to_be_better(study: WrittenStudy):
    """In the sentences and in the table."""
    add(study, 0.5, **params(0))
    study.ledger.record_baseline(TFIDF)
    text = Page(written(study)).text
    assert "no trial is better so far, so fine-tuning is hardly worth it here" in text
    assert "TF-IDF + linear model 0.7000 ± 0.0200 better by 0.2000" in text


def test_every_trial_is_in_the_matrix_with_its_stop_and_its_pause(study: WrittenStudy):
    """By rank; the scores of its epochs, and marks with the reasons where it was paused and stopped."""
    fill(study)
    found = charts(facts_of(study))["matrix"]
    heat, *marks = found["data"]
    assert heat["y"][:2] == ["trial 2", "trial 0"]
    assert set(heat["y"]) == {f"trial {number}" for number in range(10)}
    assert heat["z"][0][:4] == pytest.approx([0.7233, 0.7733, 0.79, None])  # an epoch each, then the gap to fold 1
    assert heat["z"][-1][:3] == pytest.approx([0.2, 0.25, None])
    by_name = {mark["name"]: mark for mark in marks}
    assert set(by_name) == {"stopped (4)", "paused (4)"}
    stops = dict(zip(by_name["stopped (4)"]["y"], by_name["stopped (4)"]["text"], strict=True))
    assert "0.4% chance to beat it" in stops["trial 8"].replace("<br>", " ")
    pauses = by_name["paused (4)"]
    assert set(pauses["x"]) == {0.5}  # after the first epoch
    assert "another trial is worth more" in pauses["text"][0].replace("<br>", " ")


def test_the_table_has_every_trial_and_the_first_have_a_section(study: WrittenStudy):
    """Scores, what was expected, params, folds."""
    fill(study)
    page = Page(written(study))
    assert re.search(r"8 stopped - 0\.\d{4} 2 0\.004 ", page.text)
    assert {f"#trial-{number}" for number in range(10)} <= set(page.links)
    assert "Trial 8 (stopped)" in page.text
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)


def test_classes_come_from_the_diagnosis(study: WrittenStudy):
    """Of the best trial: the class that is never predicted, and the planted label error."""
    fill(study)
    text = Page(written(study)).text
    assert "1 of 4 classes are never predicted, so their 9 rows are always wrong." in text
    assert "Likely label errors" in text
    assert "Calibration" in text


def test_without_the_data_all_else_is_there(study: WrittenStudy):
    """The reason stands in place of the classes."""
    fill(study)
    (study.folder / "data.csv").unlink()
    text = Page(written(study)).text
    assert "Trial 2 is the best of 10 trials so far" in text
    assert "Not shown: " in text
    assert "data.csv" in text


def test_the_importance_is_that_of_all_trials(study: WrittenStudy):
    """Each parameter with its interval, and a chart for what each does."""
    fill(study)
    page = Page(written(study))
    assert "From the race's model of 10 trials; of these 4 were stopped or are not complete." in page.text
    assert {"chart-importance", "chart-effect-0", "chart-effect-2"} <= set(page.data)


def test_it_asks_nothing_of_any_network(study: WrittenStudy):
    """It links to itself and to pictures that it holds, and forbids the browser to load anything else."""
    fill(study)
    text = written(study)
    page = Page(text)
    assert [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))] == []
    assert "default-src 'none'" in text
    ours = [script for script in re.split(r"<script[^>]*>", text) if "plotly.js" not in script[:1000]]
    assert re.findall(r"https?://", "".join(ours)) == []
    assert sum("plotly.js v" in script[:1000] for script in re.split(r"<script[^>]*>", text)) == 1


def test_markup_is_shown_and_never_obeyed(tmp_path: Path):
    """In the study's name, labels, texts and reasons."""
    labels = [f"{MARKUP}{label}" for label in LABELS]
    texts = [f"{MARKUP} {number}" for number in range(len(LABELS))]
    study = WrittenStudy(tmp_path, labels, texts, name=MARKUP, sections={"space": SPACE})
    add(study, 0.6, predictions=planted(study), **params(0))
    stop(study, 0.3, reason=MARKUP, **params(1))
    page = Page(written(study))
    assert page.handlers == []
    assert len([script for script in page.scripts if "type" not in script]) == 2  # plotly's and ours
    assert page.text.count(OWN) > 10
    hovers = json.dumps(page.data["chart-matrix"])
    assert "&lt;/script&gt;" in hovers
    assert "<img" not in hovers


def test_long_labels_are_cut(tmp_path: Path):
    """A label may be as long as the file."""
    study = WrittenStudy(tmp_path, [label + 10_000 * "x" for label in LABELS], sections={"space": SPACE})
    add(study, 0.6, predictions=planted(study), **params(0))
    page = Page(written(study))
    assert 200 < max(len(word) for word in page.text.split()) < 400


def test_scores_that_are_not_finite_are_left_out(study: WrittenStudy):
    """JSON knows no NaN, and a diverged trial is never the best."""
    fill(study)
    number = len(study.ledger.trials())
    study.ledger.add_trial(number, params(number))
    claim = claim_first(study.ledger, "test", lease_seconds=60)
    assert claim is not None
    nan = Epoch(epoch=1, metrics={"val_loss": float("nan")}, score=float("nan"), standing=float("nan"))
    study.ledger.record_epoch(claim, nan, checkpoint=None)
    study.ledger.finish_fold(
        claim, FoldRunState.FAILED, reason="diverged: the loss is not finite", failure=Failure.DIVERGED
    )
    study.ledger.finish_trial(number, TrialState.STOPPED, score=float("nan"))
    page = Page(written(study))
    assert "Trial 2 is the best of 11 trials so far" in page.text
    assert "diverged: the loss is not finite" in page.text
    assert page.data["chart-matrix"]["data"][0]["z"]


def test_a_study_of_which_all_diverged(study: WrittenStudy):
    """There is no best trial; the reason is there."""
    study.ledger.add_trial(0, params(0))
    claim = claim_first(study.ledger, "test", lease_seconds=60)
    assert claim is not None
    study.ledger.record_epoch(claim, Epoch(epoch=1, metrics={}), checkpoint=None)
    study.ledger.finish_fold(claim, FoldRunState.FAILED, reason="diverged", failure=Failure.DIVERGED)
    study.ledger.finish_trial(0, TrialState.STOPPED, score=0.0)
    text = Page(written(study)).text
    assert "There is no score yet" in text
    assert "diverged" in text


@pytest.mark.parametrize("num_trials", [0, 1])
def test_a_study_with_hardly_anything(study: WrittenStudy, num_trials: int):
    """It says what there is."""
    for number in range(num_trials):
        add(study, 0.5, **params(number))
    expected = ["There is no score yet", "Trial 0 is the best of 1 trial so far: macro_f1 0.5000 ± 0.0100"][num_trials]
    text = Page(written(study)).text
    assert expected in text
    assert "Not known yet: that needs at least 8 trials" in text


def test_without_a_complete_trial_the_most_promising_is_named(study: WrittenStudy):
    """With what is missing."""
    study.add_trial(noisy(len(LABELS)), folds=[0, 1], score=0.4)
    text = Page(written(study)).text
    assert "No trial is complete yet; trial 0 is the most promising: macro_f1 0.4000 so far" in text
    assert "2 of 3 folds are trained" in text


def test_a_number_as_label(tmp_path: Path):
    """Residuals in place of classes; the smaller error is the better one."""
    sections = {
        "data": {"path": tmp_path / "data.csv", "label": "label", "text": "text", "task": "regression"},
        "study": {"metric": "mae"},
        "training": {"loss": "mse"},
    }
    study = WrittenStudy(tmp_path, [str(number / 4) for number in range(36)], sections=sections)
    study.add_trial(np.linspace(0, 9, 36)[:, None], score=0.5, dropout=0.1)
    text = Page(written(study)).text
    assert "Residuals" in text
    assert "Classes, worst first" not in text


def test_files_for_other_programs(study: WrittenStudy, tmp_path: Path):
    """All trials, folds and epochs; the page is written only if it is asked for."""
    fill(study)
    folder = tmp_path / "tables"
    result = report(study, "--csv", str(folder))
    assert result.exit_code == 0, result.output
    names = ("trials", "folds", "epochs")
    rows = {name: list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines())) for name in names}
    assert {name: len(found) for name, found in rows.items()} == {"trials": 10, "folds": 30, "epochs": 6 * 9 + 4 * 2}
    assert float(rows["trials"][2]["score"]) == 0.8
    assert rows["epochs"][0]["val_loss"] == "1.2"
    assert not (Path("studies") / "reports" / "written.html").exists()


def test_a_latex_table_needs_a_complete_trial(study: WrittenStudy):
    stop(study, 0.4, **params(0))
    result = report(study, "--latex")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "--latex: no trial of study 'written' is complete, expected one" in result.stderr


def test_before_the_first_epoch_no_chart_is_promised(study: WrittenStudy):
    study.ledger.add_trial(0, params(0))
    text = Page(written(study)).text
    assert "All trials" in text
    assert "Point at a cell" not in text


def test_the_latex_table_has_the_tests_and_says_how_they_were_made(study: WrittenStudy):
    """Trials by rank and the baseline; names are escaped."""
    fill(study)
    result = report(study, "--latex")
    assert result.exit_code == 0, result.output
    facts = facts_of(study)
    assert result.stdout.strip() == latex(facts.summary, facts.compared)
    rows = [line for line in result.stdout.splitlines() if line.endswith(r"\\")]
    assert rows[0].startswith(r" & macro\_f1 & pooled")
    assert rows[1] == r"trial 2 (best) & $0.8000 \pm 0.0100$ & 0.8000 & -- & -- \\"
    assert rows[2].startswith(r"trial 0 & $0.7800 \pm 0.0100$ & 0.7800 & $0.0200$ & ")
    assert rows[-1].startswith(r"TF-IDF + linear model & $0.7000 \pm 0.0200$ & -- & $0.1000$ & ")
    assert "Nadeau and Bengio, 2003" in result.stdout
    assert escape("50% of_a {b} \\ c") == r"50\% of\_a \{b\} \textbackslash{} c"


def test_json_has_the_comparison_and_the_importance(study: WrittenStudy):
    """Beside all that `search status` prints of a study."""
    fill(study)
    result = report(study, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["best"]["trial"] == 2
    assert [row["name"] for row in found["compared"]][:2] == ["trial 2 (best)", "trial 0"]
    assert {share["name"] for share in found["importance"]["shares"]} == set(SPACE)


def test_no_secret_is_in_it(tmp_path: Path):
    """The study file without where the study is kept; no password of any address."""
    sections = {
        "space": SPACE,
        "trackers": {"mlflow": {"uri": f"https://me:{SECRET}@mlflow.example"}},
        "model": {"encoder": f"https://me:{SECRET}@models.example/x"},
    }
    study = WrittenStudy(tmp_path, LABELS, sections=sections)
    add(study, 0.6, predictions=planted(study), **params(0))
    stop(study, 0.3, reason=f"postgresql://me:{SECRET}@host/db: gone", **params(1))
    text = written(study)
    assert SECRET not in text
    assert "mlflow.example" not in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (lambda folder: ["--out", str(folder)], "is a folder, expected the name of a file"),
        (lambda folder: ["--out", str(folder / "data.csv" / "report.html")], "cannot be written"),
        (lambda folder: ["--csv", str(folder / "data.csv")], "cannot be written"),
        (lambda folder: ["--json", "--latex"], "found both, expected one"),
        (lambda folder: ["--set", "training.epochs=3"], "expected only changes that do not affect the training"),
    ],
)
def test_what_cannot_be_done_is_one_line(study: WrittenStudy, options: Callable[[Path], list[str]], expected: str):
    """And exit code 2."""
    fill(study)
    result = report(study, *options(study.folder))
    assert result.exit_code == 2
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_ten_thousand_trials(tmp_path: Path):
    """The page stays below 20 MB and says what it leaves out."""
    url = write_many(tmp_path, 10_000)
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", "--study", "many", "--storage", url, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.stat().st_size < 20e6
    page = out.read_text()
    assert "9000 more rows are left out." in page
    assert "Classes, worst first" in page


@pytest.mark.slow
def test_a_browser_shows_it(study: WrittenStudy):
    """The charts are drawn, a click sorts a table, a link opens a trial, and nothing was refused or loaded."""
    fill(study)
    written(study)
    with open_page((study.folder / "report.html").as_uri()) as page:
        wait_for_text(page, "stopped (4)")  # the legend of the matrix
        text = shown(page)
        assert "Trial 2 is the best of 10 trials so far: macro_f1 0.8000 ± 0.0100" in text
        assert "What each value does" in text
        drawn = page.execute_script(
            "return [...document.querySelectorAll('.chart')].map(c => !!c.querySelector('svg'))"
        )
        assert len(drawn) == 7
        assert all(drawn)
        page.execute_script(
            "Plotly.Fx.hover(document.querySelector('[data-chart=matrix]'), [{curveNumber: 1, pointNumber: 0}])"
        )
        hover = page.find_element("css selector", "[data-chart=matrix] .hoverlayer")
        assert hover.is_displayed()
        assert "0.4% chance to beat it" in hover.text.replace("\n", " ")
        trials = (
            "const rows = document.querySelector('#trials tbody').rows; return [...rows].map(r => r.cells[0].innerText)"
        )
        assert page.execute_script(trials)[:2] == ["2", "0"]
        page.find_element("css selector", "#trials th button").click()
        assert page.execute_script(trials) == [str(number) for number in range(10)]
        folds = page.find_element("css selector", "#trial-8 table")
        assert not folds.is_displayed()
        page.find_element("css selector", "#trials a[href='#trial-8']").click()
        assert folds.is_displayed()
        assert page.title == "Study written"
        loaded = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        assert [name for name in page.execute_script(loaded) if not name.startswith("data:")] == []
