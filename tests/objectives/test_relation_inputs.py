"""Relations as model inputs: marks follow their tokens, and what is far from both entities is cut first."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fold_search.models.encoders import load_tokenizer
from fold_search.models.params import ModelParams
from fold_search.models.relations import RelationClassifier
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.folds import assign_folds
from fold_search.objectives.data.spec import DataSpec, RelationSpec
from fold_search.objectives.errors import DataError
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.predicting.exported import trained_classifier, write_classifier
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.tasks.relation import RelationInputs, prepare_relations
from fold_search.objectives.training.fold import FoldTraining
from tests.objectives.limited_memory import room_for
from tests.tiny_encoder import build_tiny_encoder

FORMS = ("separated", "markers", "typed_markers", "typed_punctuation")
VERBS = {"bites": "attack", "greets": "meeting"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """40 rows: `before the fox bites the dog after`, one of two verbs deciding the label; the last row is long."""
    names = ["fox", "dog", "cat", "cow"]
    lines = []
    for row in range(40):
        verb = list(VERBS)[row % 2]
        subject, obj = names[row % 4], names[(row // 4) % 4]
        head = "slow " * (30 if row == 39 else row % 5) + "the "
        sentence = f"{head}{subject} {verb} the {obj} number {row}"
        start, second = len(head), len(f"{head}{subject} {verb} the ")
        spans = [subject, start, start + 2, "PET" if row % 3 else "WILD", obj, second, second + 2, "PET"]
        lines.append(",".join(map(str, [sentence, *spans, VERBS[verb]])))
    header = "sentence,subject,subject_start,subject_end,subject_type,object,object_start,object_end,object_type,label"
    path = tmp_path_factory.mktemp("data") / "relations.csv"
    path.write_text("\n".join([header, *lines, ""]))
    return read_dataset(DataSpec(path=path, label="label", relation=RelationSpec()))


@pytest.fixture(scope="module")
def encoder(dataset, tmp_path_factory) -> str:
    texts = [*dataset.columns["sentence"], "subject object end WILD PET @ # * ^ [SEP]"]
    return str(build_tiny_encoder(tmp_path_factory.mktemp("encoder"), texts))


@pytest.fixture
def prepared(dataset, encoder, tmp_path) -> Callable[[str], RelationInputs]:
    """Prepare the rows in one form, at most 48 tokens each."""
    return lambda form: prepare_relations(dataset, encoder=encoder, form=form, max_length=48, cache=tmp_path)


@pytest.fixture
def make_job(dataset, encoder) -> Callable[..., FoldJob]:
    folds = assign_folds(dataset.labels, np.arange(40), num_folds=2, seed=0, stratified=True)

    def make_job(*, model: dict | None = None, **training) -> FoldJob:
        training = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 8} | training
        model_params = ModelParams(**({"encoder": encoder, "max_length": 40} | (model or {})))
        return FoldJob(
            params=Params(model=model_params, training=TrainingParams(**training)),
            goal=Goal(metric="macro_f1", epoch_metric="macro_f1"),
            labels=dataset.labels,
            label_names=tuple(dataset.label_names),
            training_rows=np.flatnonzero(folds != 0),
            validation_rows=np.flatnonzero(folds == 0),
            seed=5,
        )

    return make_job


def tokens_of(inputs: RelationInputs, row: int, *, max_length: int = 48) -> tuple[list[str], list[int]]:
    """The tokens of one row in words, and their marks."""
    batch = inputs.tokens.batch(np.array([row]), max_length=max_length)
    tokenizer = load_tokenizer(inputs.encoder)
    new = range(inputs.tokens.new.first, inputs.tokens.new.first + len(inputs.tokens.new))
    ids = batch["input_ids"][0].tolist()
    words = ["NEW" if number in new else tokenizer.convert_ids_to_tokens(number) for number in ids]
    return words, batch["marks"][0].tolist()


@pytest.mark.parametrize(
    ("form", "words", "marks"),
    [
        ("separated", "[CLS] cat [SEP] fox [SEP] slow slow the cat bites the fox number 2 [SEP]", "020300001001000"),
        ("typed_markers", "[CLS] slow slow the NEW cat NEW bites the NEW fox NEW number 2 [SEP]", "000021100311000"),
        (
            "typed_punctuation",
            "[CLS] slow slow the @ * pet * cat @ bites the # ^ pet ^ fox # number 2 [SEP]",
            "000021111100311111000",
        ),
    ],
)
def test_marks_lie_on_the_entities(prepared, form, words, marks):
    """2 and 3 where subject and object begin, 1 on the rest of them and of what marks them, 0 elsewhere."""
    found, found_marks = tokens_of(prepared(form), 2)
    assert found == words.split()
    assert found_marks == [int(mark) for mark in marks]


def test_a_long_text_loses_what_is_far_from_the_entities(prepared):
    """In the order of the text; whatever the length, the entities' first tokens and the special ones stay."""
    inputs = prepared("markers")
    words, _ = tokens_of(inputs, 39, max_length=13)
    assert " ".join(words) == "[CLS] slow the NEW cow NEW greets the NEW dog NEW number [SEP]"
    words, marks = tokens_of(inputs, 39, max_length=4)
    assert words == ["[CLS]", "NEW", "NEW", "[SEP]"]
    assert marks == [0, 2, 3, 0]
    assert inputs.tokens.lengths(np.array([0, 39]), max_length=12).tolist() == [12, 12]


def test_tokens_kept_for_a_longer_trial_are_those_of_a_shorter_one(dataset, encoder, prepared, tmp_path):
    """Cut from 48 to 10 they are the same as cut to 10 at once."""
    short = prepare_relations(dataset, encoder=encoder, form="markers", max_length=10, cache=tmp_path)
    assert tokens_of(prepared("markers"), 39, max_length=10) == tokens_of(short, 39)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("entity_states", ["pooled", "entities"])
def test_every_form_trains(prepared, make_job, form, entity_states):
    """The label is in the words between: loss falls below that of guessing, and new tokens' rows have moved."""
    inputs = prepared(form)
    job = make_job(model={"entity_form": form, "entity_states": entity_states}, epochs=10, learning_rate=1e-2)
    training = FoldTraining(job, inputs=inputs, device="cpu")
    before = {name: weight.detach().clone() for name, weight in training.network.trained.items()}
    scores = list(training.epochs())
    assert scores[-1].metrics["train_loss"] < 0.6
    moved = [name for name, weight in training.network.trained.items() if not torch.equal(weight, before[name])]
    assert any(name.endswith("new.weight") for name in moved) == ("markers" in form)


@pytest.mark.parametrize(("model", "width"), [({}, 32), ({"pooling": "cls"}, 32), ({"entity_states": "entities"}, 64)])
def test_head_only_sees_the_frozen_states(prepared, make_job, model, width):
    """Computed once a study, they are what the whole classifier computes in evaluation."""
    inputs = prepared("typed_markers")
    job = make_job(model={"trainable_layers": 0, **model})
    feed = inputs.feed(job, device="cpu")
    rows = np.array([39, 0, 7])
    states = feed.batch(rows)["states"]
    classifier = RelationClassifier(job.params.model, new_tokens=inputs.tokens.new, num_outputs=2).eval()
    torch.testing.assert_close(states, classifier.pooled(**inputs.tokens.batch(rows, max_length=40)))
    assert states.shape == (3, width)
    assert feed.build(num_outputs=2, scale=None)(states=states).shape == (3, 2)
    again = dataclasses.replace(inputs, encoder=inputs.encoder).states(job.params.model)
    assert isinstance(again, np.memmap)


def test_frozen_states_are_computed_in_smaller_parts_where_memory_is_short(prepared, make_job, tmp_path, monkeypatch):
    """Whoever has room for five relations gets what all others get."""
    inputs, model = prepared("typed_markers"), make_job(model={"trainable_layers": 0}).params.model
    expected = inputs.states(model)
    monkeypatch.setattr(RelationClassifier, "pooled", room_for(5, RelationClassifier.pooled))
    found = dataclasses.replace(inputs, cache=tmp_path / "small").states(model)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_neighbours_are_looked_for_among_the_marked_texts_states(prepared, make_job):
    """Rows of length 1, and a sampler that needs them trains."""
    inputs = prepared("typed_markers")
    np.testing.assert_allclose(np.linalg.norm(inputs.embeddings(), axis=1), 1, rtol=1e-5)
    job = make_job(model={"trainable_layers": 0}, sampler="smote", sampler_ratio=1.0)
    assert list(FoldTraining(job, inputs=inputs, device="cpu").epochs())


@pytest.mark.parametrize("form", FORMS)
def test_augmentation_leaves_entities_and_markers_alone(prepared, make_job, form):
    """Deleted, swapped and masked at 0.9: every token of an entity is still there, in its order, with its mark."""
    inputs = prepared(form)
    job = make_job(token_deletion=0.9, token_swap=0.9, token_masking=0.9)
    feed = inputs.feed(job, device="cpu")
    rows = np.arange(40)
    batch, changed = feed.batch(rows), feed.batch(rows, random=np.random.default_rng(0))
    assert changed["input_ids"].shape[1] < batch["input_ids"].shape[1]
    for number in rows:
        before, after = (
            [(i, m) for i, m in zip(b["input_ids"][number].tolist(), b["marks"][number].tolist(), strict=True) if m]
            for b in (batch, changed)
        )
        assert before == after


def test_the_kind_of_the_rows_decides(dataset, encoder, tmp_path):
    """`prepare` gives relations in the form of the parameters."""
    params = ModelParams(encoder=encoder, max_length=16, entity_form="typed_punctuation")
    inputs = prepare(dataset, params=params, max_length=16, cache=tmp_path, device="cpu")
    assert isinstance(inputs, RelationInputs)
    assert len(inputs.tokens.new) == 0


def test_a_form_that_the_tokenizer_cannot_show_is_refused(dataset, encoder, tmp_path, monkeypatch):
    """`separated` needs a separating token."""
    tokenizer = load_tokenizer(encoder)
    tokenizer.sep_token = None
    monkeypatch.setattr("fold_search.objectives.tasks.relation.load_tokenizer", lambda name: tokenizer)
    with pytest.raises(DataError, match=r"entity_form is separated, but the tokenizer .* has no separating token"):
        prepare_relations(dataset, encoder=encoder, form="separated", max_length=16, cache=Path(tmp_path))


def test_an_encoder_saved_with_markers_gets_only_those_that_it_lacks(dataset, encoder, prepared, make_job, tmp_path):
    """A study that begins with it adds tokens for new types, after those that it has."""
    inputs = prepared("typed_markers")
    job = make_job()
    write_classifier(trained_classifier(job, {}, inputs=inputs, device="cpu"), tmp_path / "model", encoder=encoder)
    types = {"subject_type": [kind.replace("WILD", "ZOO") for kind in dataset.columns["subject_type"]]}
    content = dataclasses.replace(dataset, columns=dict(dataset.columns) | types)
    model = {"encoder": str(tmp_path / "model"), "form": "typed_markers", "max_length": 48, "cache": tmp_path}
    assert len(prepare_relations(dataset, **model).tokens.new) == 0
    new = prepare_relations(content, **model).tokens.new
    assert new.names == ("[S:ZOO]", "[/S:ZOO]", "[O:ZOO]", "[/O:ZOO]")
    assert new.first == inputs.tokens.new.first + len(inputs.tokens.new)
