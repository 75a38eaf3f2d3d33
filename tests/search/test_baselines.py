"""Baselines of a study: computed once, seen beside the trials, exported as a model."""

import csv
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from numpy.testing import assert_allclose
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC
from transformers import ViTConfig

from fold_search.objectives.baselines.folds import count_rows, score_folds, score_majority
from fold_search.objectives.baselines.linear import SHARPNESS
from fold_search.objectives.data.dataset import content_of, read_table
from fold_search.objectives.jobs import EpochScore
from fold_search.objectives.predicting.baseline import BaselineDescription, ExportedBaseline
from fold_search.objectives.scoring.calibration import apply_temperature
from fold_search.search.exporting.predict import load_model
from fold_search.search.running import baselines
from fold_search.search.running.baselines import (
    BASELINE_ROLE,
    BaselineJob,
    Baselines,
    compute,
    fold_rows,
    missing,
    trained_here,
)
from fold_search.search.running.objective import Objective
from fold_search.search.running.progress import describe
from fold_search.search.study.config import StudyConfig, differences, fingerprint
from fold_search.search.study.rows import StudyRows
from fold_search.storage.copies import copy_study
from fold_search.storage.database import connect, migrate
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import BaselineRecord, EventKind, FoldRunState, TrialState
from tests.claims import claim_first
from tests.search.conftest import ScriptedStudy
from tests.search.test_export_relations import write as write_relations
from tests.search.trained import TrainedStudy, refused, search
from tests.tiny_encoder import build_tiny_encoder
from tests.tiny_images import VIT, build_tiny_image_encoder, write_photos

LABELS = {"animal": "fox dog horse", "prize": "cash ticket phone", "weapon": "worm exploit virus"}


def new_study(folder: Path, *, texts: list[str] | None = None, **study: object) -> TrainedStudy:
    """A study of 60 short texts of which nothing is trained."""
    rows = []
    for row in range(60):
        label = list(LABELS)[row * 7 % 11 % 3 if row % 5 else 0]
        noun = LABELS[label].split()[row % 3] if row % 7 else "thing"
        rows.append((f"a {noun} of {row}", label))
    if texts is not None:
        rows = [(text, label) for text, (_, label) in zip(texts, rows, strict=True)]
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    sections = {
        "study": study,
        "data": {"path": folder / "data.csv", "label": "label", "text": "text"},
        "model": {"encoder": str(folder / "none")},
    }
    return TrainedStudy(folder, name="nouns", sections=sections, trials=[])


@pytest.fixture
def study(tmp_path: Path) -> TrainedStudy:
    return new_study(tmp_path)


@pytest.fixture
def scored(study: TrainedStudy) -> TrainedStudy:
    """The same with its baselines."""
    compute(study.ledger, study.rows)
    return study


def complete(study: TrainedStudy, number: int, scores: list[float], *, curves: list[list[float]] | None = None) -> None:
    """Add a complete trial with these fold scores; `curves` has the score of each fold after each epoch."""
    study.ledger.add_trial(number, {})
    for score, curve in zip(scores, curves or [[score] for score in scores], strict=True):
        claim = claim_first(study.ledger, "worker", lease_seconds=60)
        assert claim is not None
        for epoch, value in enumerate(curve, start=1):
            scored = EpochScore(epoch=epoch, score=value, standing=value, metrics={}, seconds=1.0)
            study.ledger.record_epoch(claim, scored, checkpoint=None)
        study.ledger.finish_fold(claim, FoldRunState.DONE, score=score, best_epoch=1)
    study.ledger.finish_trial(number, TrialState.COMPLETE, score=float(np.mean(scores)), std=float(np.std(scores)))


def start(study: TrainedStudy) -> Baselines:
    started = Baselines(ledger=study.ledger, config=study.config, url=study.url)
    started.start()
    return started


def wait(process: Baselines) -> None:
    while process.alive():
        time.sleep(0.05)


def names(ledger: Ledger) -> list[str]:
    return [found.name for found in ledger.baselines()]


class TestComputing:
    def test_both_are_scored_on_the_folds_of_the_study(self, scored: TrainedStudy):
        """Majority class and TF-IDF; computed again, nothing changes; they are no trials."""
        rows = fold_rows(scored.rows)
        tfidf = score_folds(rows, [(chosen, predicted) for _, chosen, predicted in count_rows(rows).fold_models()])
        majority = score_majority(rows)
        found = scored.ledger.baselines()
        assert [each.label for each in found] == ["majority class", "TF-IDF + linear model"]
        for each, expected in zip(found, (majority, tfidf), strict=True):
            assert each.fold_scores == expected.fold_scores
            assert (each.score, each.std, each.pooled) == (expected.score, expected.std, expected.pooled)
        compute(scored.ledger, scored.rows)
        assert scored.ledger.baselines() == found
        assert not scored.ledger.trials()
        lines = [describe(event, metric="macro_f1") for event in scored.ledger.events() if event.kind == "baseline"]
        assert lines[1].startswith(f"baseline TF-IDF + linear model: macro_f1 {tfidf.score:.4f} ± {tfidf.std:.4f}, ")

    def test_a_failure_is_recorded_with_its_reason(self, tmp_path: Path):
        """It fails nothing else, and is not tried again."""
        study = new_study(tmp_path, texts=["!" * (row + 1) for row in range(60)])
        compute(study.ledger, study.rows)
        majority, tfidf = study.ledger.baselines()
        assert majority.score is not None
        assert (tfidf.score, tfidf.fold_scores, tfidf.reason) == (None, (), "no text has a word in it")
        assert missing(study.ledger, study.config) == []
        assert "no score (no text has a word in it)" in " ".join(search("status", *of(study)).output.split())

    def test_they_can_be_switched_off_at_any_time(self, study: TrainedStudy):
        """What is trained is the same, so a study that was begun with them goes on without."""
        off = study.config.model_copy(update={"study": study.config.study.model_copy(update={"baselines": False})})
        assert missing(study.ledger, off) == []
        assert differences(study.config, off) == []
        assert fingerprint(off) == fingerprint(study.config)

    def test_images_have_the_majority_class_alone(self, study: TrainedStudy):
        """Nothing of a text can be counted there."""
        data = {"path": "none.csv", "label": "label", "image": "file"}
        config = StudyConfig.model_validate({"data": data, "model": {"encoder": "none"}})
        assert missing(study.ledger, config) == ["majority"]

    def test_the_process_gives_up_when_it_takes_too_long(self, study: TrainedStudy, monkeypatch: pytest.MonkeyPatch):
        """It says so in the ledger, leaves the role and ends."""
        ended: list[int] = []
        monkeypatch.setattr(baselines, "LIMIT_SECONDS", 0.01)
        monkeypatch.setattr(baselines.os, "_exit", ended.append)
        study.ledger.acquire_role(BASELINE_ROLE, "me", lease_seconds=60)
        baselines.keep_role(study.ledger, job(study))
        assert ended == [0]
        assert {found.reason for found in study.ledger.baselines()} == {"it took longer than 0 s"}
        assert not study.ledger.live_roles("")


class TestFrozenEncoders:
    """Where the trials train heads, the encoder's states are there anyway."""

    def test_relations_have_the_marked_sentence_and_the_states(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """The states are those that the heads were trained on; they are used where this machine has trained."""
        data = write_relations(tmp_path / "relations.csv")
        encoder = build_tiny_encoder(tmp_path / "encoder", ["the fox bites greets dog cat cow subject object WILD PET"])
        sections = {
            "data": {"path": data, "label": "label", "relation": {}},
            "model": {"encoder": str(encoder), "max_length": 40, "trainable_layers": 0},
            "training": {"epochs": 1, "batch_size": 8},
        }
        study = TrainedStudy(tmp_path, name="nouns", sections=sections, trials=[{"learning_rate": 1e-2}])
        assert trained_here(study.ledger) is None
        assert missing(study.ledger, study.config) == ["majority", "tf-idf"]
        monkeypatch.setattr(baselines.socket, "gethostname", lambda: "here")
        study.ledger.add_trial(1, {"learning_rate": 1e-2})
        claim = claim_first(study.ledger, "here-1-2", lease_seconds=60)
        study.worker(threading.Event()).train(claim)
        assert trained_here(study.ledger) == 1
        compute(study.ledger, study.rows)
        assert names(study.ledger) == ["frozen-encoder", "majority", "tf-idf"]
        states = Objective(study.rows, device="cpu").frozen_states({"learning_rate": 1e-2})
        assert states is not None
        states = states / np.linalg.norm(states, axis=1, keepdims=True)
        labels, found = study.rows.dataset.labels, study.ledger.baselines()
        for fold, score in enumerate(found[0].fold_scores):
            training, validation = study.rows.split(fold)
            classifier = LinearSVC(C=1.0, tol=1e-2, class_weight="balanced", random_state=0)
            predicted = classifier.fit(states[training], labels[training]).predict(states[validation])
            assert score == pytest.approx(f1_score(labels[validation], predicted, average="macro"))
        described = export(study, tmp_path / "model")
        assert (described.entity_types, described.fold_scores) == (("PET", "WILD"), found[2].fold_scores)
        unknown = write_relations(tmp_path / "other.csv", subject_type="ROCK")
        result = search("predict", "--model", tmp_path / "model", unknown, "--out", tmp_path / "out.csv")
        refused(result, "'ROCK', which the model never saw")

    @pytest.mark.parametrize(("layers", "expected"), [(0, ["frozen-encoder", "majority"]), (1, ["majority"])])
    def test_images_have_the_states_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int, expected: list[str]
    ):
        """And the majority class; what is not computed anyway is not computed for this."""
        (tmp_path / "photos").mkdir()
        photos = write_photos(tmp_path / "photos")
        build_tiny_image_encoder(tmp_path / "vit", ViTConfig(**VIT))
        sections = {
            "data": {"path": photos, "image": "file", "label": "folder"},
            "model": {"encoder": str(tmp_path / "vit"), "image_size": 16, "trainable_layers": layers},
            "training": {"epochs": 1, "batch_size": 9},
        }
        study = TrainedStudy(tmp_path, name="nouns", sections=sections, trials=[{"learning_rate": 1e-2}])
        monkeypatch.setattr(baselines, "trained_here", lambda ledger: 0)
        compute(study.ledger, study.rows)
        assert names(study.ledger) == expected
        assert all(found.score is not None for found in study.ledger.baselines())
        refused(study.export(tmp_path / "model", "--baseline"), "found a study of images")

    def test_it_begins_when_the_first_epoch_is_trained(self, study: TrainedStudy, monkeypatch: pytest.MonkeyPatch):
        """Looked for while the study runs, and begun once."""
        begun: list[list[str]] = []
        sections = {
            "data": {"path": "none.csv", "label": "label", "image": "file"},
            "model": {"encoder": "none", "trainable_layers": 0},
        }
        config = StudyConfig.model_validate(sections)
        process = Baselines(ledger=study.ledger, config=config, url=study.url)
        context = SimpleNamespace(
            Process=lambda **_: SimpleNamespace(
                start=lambda: begun.append(missing(study.ledger, config)),
                is_alive=lambda: False,
                kill=lambda: None,
                join=lambda: None,
            )
        )
        monkeypatch.setattr(baselines.multiprocessing, "get_context", lambda _: context)
        process.start()
        process.tend(now=True)
        monkeypatch.setattr(baselines, "trained_here", lambda ledger: 0)
        process.tend()
        process.tend(now=True)
        process.tend(now=True)
        assert begun == [["majority"], ["majority", "frozen-encoder"]]

    def test_a_run_that_leaves_begins_none(self, study: TrainedStudy, monkeypatch: pytest.MonkeyPatch):
        """Its last steps would wait for the processors."""
        sections = {
            "data": {"path": "none.csv", "label": "label", "image": "file"},
            "model": {"encoder": "none", "trainable_layers": 0},
        }
        process = Baselines(ledger=study.ledger, config=StudyConfig.model_validate(sections), url=study.url)
        process.kill()
        begun: list[Baselines] = []
        monkeypatch.setattr(Baselines, "start", lambda baselines: begun.append(baselines))
        process.tend(now=True)
        assert begun == []


@pytest.mark.slow
class TestProcesses:
    def test_of_two_that_start_at_once_one_computes(self, study: TrainedStudy):
        """Two runs, as on two machines: each baseline has one record and one event."""
        both = [start(study), start(study)]
        for process in both:
            wait(process)
            process.kill()
        assert names(study.ledger) == ["majority", "tf-idf"]
        assert sum(event.kind is EventKind.BASELINE for event in study.ledger.events()) == 2
        assert not study.ledger.live_roles("")

    def test_what_was_killed_is_computed_by_the_next_run(self, study: TrainedStudy):
        """As Ctrl-C does; nobody has to wait for the role to lapse."""
        process = start(study)
        while not study.ledger.live_roles(BASELINE_ROLE) and process.alive():
            time.sleep(0.01)
        process.kill()
        assert not study.ledger.live_roles(BASELINE_ROLE)
        again = start(study)
        wait(again)
        again.kill()
        assert names(study.ledger) == ["majority", "tf-idf"]

    def test_rows_that_have_changed_are_no_failure_of_a_baseline(self, study: TrainedStudy):
        """The next run tries again."""
        (study.config.data.path).write_text("text,label\nfox,animal\ncash,prize\n")
        process = start(study)
        wait(process)
        process.kill()
        assert names(study.ledger) == []


def job(study: TrainedStudy) -> BaselineJob:
    return BaselineJob(url=study.url, study="nouns", config=study.config, owner="me")


def test_nobody_computes_while_another_process_holds_the_role(study: TrainedStudy, monkeypatch: pytest.MonkeyPatch):
    """It waits, and does so once that one has died: its role lapses."""
    monkeypatch.setattr(baselines, "LIMIT_SECONDS", 0.1)
    monkeypatch.setattr(baselines, "WAIT_SECONDS", 0.05)
    study.ledger.acquire_role(BASELINE_ROLE, "other", lease_seconds=60)
    assert not baselines.take_role(study.ledger, job(study))
    assert study.ledger.live_roles("") == [BASELINE_ROLE]
    study.ledger.acquire_role(BASELINE_ROLE, "other", lease_seconds=0.2)
    monkeypatch.setattr(baselines, "LIMIT_SECONDS", 60)
    assert baselines.take_role(study.ledger, job(study))
    study.ledger.release_role(BASELINE_ROLE, "me")
    compute(study.ledger, study.rows)
    assert not baselines.take_role(study.ledger, job(study))


def of(study: TrainedStudy) -> tuple[str, ...]:
    return ("--study", "nouns", "--storage", study.url)


class TestLooking:
    def test_status_and_best_show_them_beside_the_best_trial(self, scored: TrainedStudy):
        """And say that fine-tuning is hardly worth it where the best trial is not better."""
        tfidf = scored.ledger.baselines()[1]
        status = " ".join(search("status", *of(scored)).output.split())
        assert f"TF-IDF + linear model {tfidf.score:.4f} ± {tfidf.std:.4f}" in status
        complete(scored, 0, [score - 0.01 for score in tfidf.fold_scores])
        best = " ".join(search("best", *of(scored)).output.split())
        assert "no trial is better so far, so fine-tuning is hardly worth it here" in best
        complete(scored, 1, [score + gain for score, gain in zip(tfidf.fold_scores, (0.1, 0.09, 0.11), strict=True)])
        best = " ".join(search("best", *of(scored)).output.split())
        assert "better than TF-IDF + linear model by more than the noise between folds" in best
        assert json.loads(search("best", *of(scored), "--json").output)["beats_baselines"] is True

    def test_a_difference_within_the_noise_is_not_worth_it(self, scored: TrainedStudy):
        """Better on two folds, worse on the third."""
        scores = scored.ledger.baselines()[1].fold_scores
        complete(scored, 0, [scores[0] + 0.05, scores[1] + 0.01, scores[2] - 0.03])
        found = json.loads(search("best", *of(scored), "--json").output)
        assert found["beats_baselines"] is False
        assert [each["name"] for each in found["baselines"]] == ["majority", "tf-idf"]
        best = " ".join(search("best", *of(scored)).output.split())
        assert "no more than the noise between folds, so fine-tuning is hardly worth it here so far" in best

    def test_json_has_them(self, study: TrainedStudy):
        """An empty list before they are computed."""
        assert json.loads(search("status", *of(study), "--json").output)["baselines"] == []
        compute(study.ledger, study.rows)
        [majority, tfidf] = json.loads(search("status", *of(study), "--json").output)["baselines"]
        assert majority["label"] == "majority class"
        assert tfidf["fold_scores"] == list(study.ledger.baselines()[1].fold_scores)

    def test_optuna_s_dashboard_finds_them_among_the_study_s_attributes(
        self, scripted_study: Callable[..., ScriptedStudy]
    ):
        """They are none of its trials."""
        study = scripted_study()
        found = BaselineRecord(
            name="tf-idf", label="TF-IDF + linear model", score=0.5, std=0.01, pooled=0.4, fold_scores=(0.49, 0.5, 0.51)
        )
        study.ledger.record_baseline(found)
        coordinator = study.coordinator()
        coordinator.step()
        coordinator.show_baselines()
        loaded = optuna.load_study(study_name="scripted", storage=study.url)
        assert loaded.user_attrs == {"baseline: TF-IDF + linear model": "0.5000 ± 0.0100"}
        coordinator.leave()
        assert len(loaded.trials) == 1

    def test_a_copy_of_the_study_has_them(self, scored: TrainedStudy, tmp_path: Path):
        """As a backup does."""
        target = connect(f"sqlite:///{tmp_path / 'copy.db'}")
        migrate(target)
        copy = copy_study(scored.ledger.engine, target, name="nouns")
        assert Ledger(target, copy.id).baselines() == scored.ledger.baselines()
        target.dispose()


def export(study: TrainedStudy, out: Path, *options: str) -> BaselineDescription:
    result = study.export(out, "--baseline", *options)
    assert result.exit_code == 0, result.output
    return ExportedBaseline(out).description


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestExport:
    def test_the_folder_predicts_what_scikit_learn_does(self, scored: TrainedStudy, tmp_path: Path):
        """The mean of the folds' models at the temperature that was fitted, to a millionth; no file is a pickle."""
        described = export(scored, tmp_path / "model")
        assert described.fold_scores == scored.ledger.baselines()[1].fold_scores
        content = content_of(read_table(scored.config.data), scored.config.data)
        texts, votes = np.array(content.texts, dtype=object), []
        for fold in range(3):
            training, _ = scored.rows.split(fold)
            vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True, min_df=2)
            classifier = LinearSVC(C=1.0, tol=1e-2, class_weight="balanced", random_state=scored.config.study.seed)
            classifier.fit(vectorizer.fit_transform(texts[training]), scored.rows.dataset.labels[training])
            margins = classifier.decision_function(vectorizer.transform(texts))
            votes.append(softmax(SHARPNESS * margins, axis=1))
        expected = apply_temperature(np.mean(votes, axis=0), described.temperature)
        assert_allclose(load_model(tmp_path / "model").predict(content), expected, atol=1e-6)
        files = sorted(str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*.*"))
        in_folds = [f"fold-{fold}/{name}" for fold in range(3) for name in ("head.safetensors", "terms.json")]
        assert files == sorted(["README.md", "model.json", "study.yaml", *in_folds])

    def test_predict_and_evaluate_take_it(self, scored: TrainedStudy, tmp_path: Path):
        """And a model card says what it is."""
        export(scored, tmp_path / "model", "--form", "refit")
        data, out = scored.config.data.path, tmp_path / "out.csv"
        result = search("predict", "--model", tmp_path / "model", data, "--out", out)
        assert result.exit_code == 0, result.output
        right = [row["label"] == truth["label"] for row, truth in zip(read(out), read(data), strict=True)]
        result = search("evaluate", "--model", tmp_path / "model", data, "--json")
        evaluated = json.loads(result.stdout)
        assert evaluated["scores"]["accuracy"] == pytest.approx(np.mean(right))
        assert evaluated["study"]["fold_scores"] == list(scored.ledger.baselines()[1].fold_scores)
        card = (tmp_path / "model" / "README.md").read_text()
        assert "**A baseline**: TF-IDF + linear model, which no encoder was trained for" in card
        assert "best of a search" not in card

    def test_a_damaged_folder_is_refused(self, scored: TrainedStudy, tmp_path: Path):
        """One line, before anything is predicted."""
        export(scored, tmp_path / "model")
        terms = tmp_path / "model" / "fold-1" / "terms.json"
        terms.write_text(terms.read_text().replace("fox", "cat"))
        out = tmp_path / "out.csv"
        refused(search("predict", "--model", tmp_path / "model", scored.config.data.path, "--out", out), "is damaged")

    def test_it_goes_with_no_trial(self, scored: TrainedStudy, tmp_path: Path):
        """Each of both is another model."""
        result = scored.export(tmp_path / "model", "--baseline", "--trial", "0")
        assert (result.exit_code, "--baseline takes no --trial" in result.output) == (2, True)

    def test_without_anything_trained_the_error_names_it(self, study: TrainedStudy, tmp_path: Path):
        """The baseline can be exported before it was scored, too."""
        refused(study.export(tmp_path / "model"), "nothing to export; --baseline exports the TF-IDF baseline")
        export(study, tmp_path / "model")
        refused(study.export(tmp_path / "model", "--baseline"), "already contains an exported model")

    def test_the_better_of_both_is_exported(self, scored: TrainedStudy, tmp_path: Path):
        """With its reason; a trial that is better, or asked for, is what is exported."""
        baseline = scored.ledger.baselines()[1]
        result = scored.export(tmp_path / "nothing-else")
        assert result.exit_code == 0, result.output
        assert "this is the baseline, since TF-IDF + linear model is all there is" in result.stdout
        complete(scored, 0, [0.1, 0.2, 0.1])
        result = scored.export(tmp_path / "worse-trial")
        assert f"is better: macro_f1 {baseline.score:.4f} against 0.1333 of trial 0" in result.stdout
        assert ExportedBaseline(tmp_path / "worse-trial").description.fold_scores == baseline.fold_scores
        # The best epoch of each fold is better than the baseline, but no other fold would have chosen it.
        first, second, third = baseline.fold_scores
        lucky = [[first + 0.01, 0, 0], [0, second + 0.01, 0], [0, 0, third + 0.01]]
        complete(scored, 2, [score + 0.01 for score in baseline.fold_scores], curves=lucky)
        result = scored.export(tmp_path / "lucky-trial")
        assert f"TF-IDF + linear model is as good: macro_f1 {baseline.score:.4f} against" in result.stdout
        assert "without the luck of the best of several trials and epochs; --trial 2 exports" in result.stdout
        complete(scored, 1, [1.0, 1.0, 1.0])
        refused(scored.export(tmp_path / "better-trial"), "trial 1")  # which has no weights here
        refused(scored.export(tmp_path / "asked-for", "--trial", "0"), "trial 0")


def test_a_study_that_was_read_again_scores_the_same(scored: TrainedStudy):
    """Nothing depends on the process."""
    rows = fold_rows(StudyRows(ledger=scored.ledger, config=scored.config))
    again = score_folds(rows, [(chosen, predicted) for _, chosen, predicted in count_rows(rows).fold_models()])
    assert again.fold_scores == scored.ledger.baselines()[1].fold_scores
