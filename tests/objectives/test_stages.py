"""What a process says that it is doing."""

from dataclasses import replace

import pytest

from fold_search.objectives.stages import Stage, current, stage
from fold_search.objectives.tasks import text
from fold_search.objectives.training.fold import FoldTraining


def test_the_innermost_stage_is_named_with_what_it_is_done_for():
    """And what lies around it again once it has ended; nothing after all of them."""
    assert current() is None
    with stage("choosing rows", purpose="enn"):
        assert str(current()) == "choosing rows for enn"
        with stage("embedding rows", total=50) as advance:
            advance(12)
            advance(8)
            assert str(current()) == "embedding rows for enn 40%"
        assert str(current()) == "choosing rows for enn"
    assert current() is None


def test_an_error_ends_a_stage():
    """What is done after it is not said to be a part of it."""
    with pytest.raises(ValueError, match="damaged"), stage("reading rows"):
        raise ValueError("damaged")
    assert current() is None


def test_without_a_number_of_parts_there_is_no_share():
    assert str(Stage(what="loading the encoder")) == "loading the encoder"


def test_rows_are_embedded_and_steps_trained_as_stages(inputs, make_job, tmp_path, monkeypatch):
    """What the sampler needs is said to be for it; the steps of an epoch are counted from 0, and again for the next."""
    seen: list[str] = []
    read_states = text.read_states
    monkeypatch.setattr(text, "rows_per_forward", lambda device: 18)

    def reading(*arguments, **options):
        seen.append(str(current()))
        return read_states(*arguments, **options)

    monkeypatch.setattr(text, "read_states", reading)
    job = make_job(sampler="enn", epochs=2, batch_size=18, model={"trainable_layers": 0})
    training = FoldTraining(job, inputs=replace(inputs, cache=tmp_path), device="cpu")
    assert seen[:3] == [f"embedding rows for enn {share}%" for share in (0, 33, 67)]
    steps: list[str] = []

    def never() -> bool:
        steps.append(str(current()))
        return False

    num_epochs = len(list(training.epochs(never)))
    assert num_epochs == 2
    of_one = [step for step in steps if step.startswith("training")]
    assert of_one == 2 * of_one[: len(of_one) // 2]
    assert of_one[0] == "training 0%"
    assert "scoring" in steps
    assert current() is None
