"""`search init --time` and `search plan`: the study that fits a machine and a time, and what it will take."""

from dataclasses import replace

import numpy as np
import pytest

from fold_search.search.drafting.advice import more_time, reason, warnings
from fold_search.search.drafting.fitting import PRESETS, fit
from fold_search.search.drafting.forecast import Load, Shape, forecast, mean_growth
from fold_search.search.drafting.measured import Measured
from fold_search.search.drafting.ways import WAYS, ways_of
from fold_search.search.reporting.times import in_words
from fold_search.search.study.sections import parse_time

MINUTE, HOUR = 60.0, 3600.0
LOAD = Load(num_rows=1000, most_folds=5)


def measured(**changes: object) -> Measured:
    """What two cores took for a small encoder; every text has 64 tokens."""
    found = Measured(
        device="CPU, 2 cores",
        num_gpus=0,
        is_busy=False,
        start=8.0,
        batch_size=16,
        tokens=64,
        longest=256,
        training={"head": 1e-4, "top": 0.008, "lora": 0.02, "whole": 0.024},
        estimated=(),
        forward=0.008,
        preparing=2e-4,
        loading=0.3,
        growth=1.0,
        lengths=np.full(100, 64),
        unknown=0.0,
        num_layers=6,
    )
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("seconds", "way"), [(10 * MINUTE, "head"), (1.0 * HOUR, "top"), (24 * HOUR, "whole"), (240 * HOUR, "whole")]
)
def test_the_more_time_the_more_is_trained(seconds, way):
    """And the study that is chosen fits into it, with as many trials as a search needs."""
    found = fit(measured(), LOAD, seconds=seconds, preset="balanced")
    assert (found.way.name, found.fits) == (way, True)
    assert found.takes.study[1] <= seconds
    assert PRESETS["balanced"].fewest <= found.shape.trials <= PRESETS["balanced"].most


def test_presets_move_along_between_soon_done_and_more_trained():
    """In the same time."""
    quick, balanced, thorough = (fit(measured(), LOAD, seconds=1.2 * HOUR, preset=name) for name in PRESETS)
    assert quick.takes.study[1] < HOUR / 2
    strength = [list(WAYS).index(found.way.name) for found in (quick, balanced, thorough)]
    assert strength == sorted(strength, reverse=True)
    assert thorough.takes.trial > quick.takes.trial


def test_what_memory_does_not_hold_is_not_chosen():
    """Low-rank updates are for encoders that do not fit as a whole; they save no time."""
    roomy = fit(measured(), LOAD, seconds=24 * HOUR, preset="balanced")
    tight = fit(measured(problems={"whole": "memory does not suffice"}), LOAD, seconds=24 * HOUR, preset="balanced")
    assert (roomy.way.name, tight.way.name) == ("whole", "lora")


def test_a_time_too_short_for_anything_is_said_with_one_that_works():
    """And that time does work."""
    found = fit(measured(), LOAD, seconds=5.0, preset="balanced")
    assert not found.fits
    said = reason(found)
    assert "In 5s not one trial" in said
    assert "--baseline" in said
    shortest = parse_time(said.partition("is about ")[2].partition(",")[0])
    assert fit(measured(), LOAD, seconds=shortest, preset="balanced").fits


def test_texts_are_cut_short_only_where_little_is_lost_or_nothing_else_fits():
    """The same time and a hundred times the rows."""
    texts = measured(lengths=np.full(100, 256), tokens=256, forward=0.032)
    assert fit(texts, LOAD, seconds=10 * MINUTE, preset="balanced").shape.max_length == 256
    many = fit(texts, replace(LOAD, num_rows=20_000), seconds=10 * MINUTE, preset="balanced")
    assert many.shape.max_length < 256
    assert any("of all tokens lie beyond" in line for line in warnings(texts, encoder="e", max_length=64))


def test_what_more_time_buys():
    """The first of the times from which on another way is chosen."""
    times = [(HOUR, WAYS["head"]), (2 * HOUR, WAYS["top"]), (4 * HOUR, WAYS["whole"])]
    assert more_time(times, WAYS["head"]) == "With more time: --time 2h is enough to train the top 2 layers."
    assert more_time(times[:1], WAYS["head"]) is None


def test_an_encoder_of_another_language_is_pointed_out():
    """By the tokens that it does not know."""
    [line] = warnings(measured(unknown=0.057), encoder="english", max_length=64)
    assert "5.7% of the tokens are unknown to the tokenizer of english" in line
    assert not list(warnings(measured(unknown=0.001), encoder="english", max_length=64))


def test_a_forecast_counts_rows_folds_epochs_and_the_samplers():
    """Twice of each takes about twice as long, but for what is done once."""
    shape = Shape(load=LOAD, num_folds=5, epochs=(10, 10), max_length=64, trials=10)

    def work(changed: Shape) -> float:
        takes = forecast(measured(), WAYS["whole"], changed)
        return takes.without_race - takes.start

    once = work(shape)
    assert work(replace(shape, epochs=(20, 20))) == pytest.approx(2 * once, rel=0.05)
    assert work(replace(shape, load=replace(LOAD, num_rows=2000))) == pytest.approx(2 * once, rel=0.05)
    assert work(replace(shape, trials=20)) == pytest.approx(2 * once)
    assert work(replace(shape, load=replace(LOAD, growth=2.0))) > 1.5 * once
    assert work(replace(shape, max_length=32)) == pytest.approx(once / 2, rel=0.05)
    takes = forecast(measured(), WAYS["whole"], shape)
    assert takes.start < takes.study[0] < takes.study[1] < takes.without_race


def test_the_race_saves_more_of_more_trials():
    """One trial is trained whole, and so is every one without a race."""
    shape = Shape(load=LOAD, num_folds=5, epochs=(10, 10), max_length=64, trials=1)

    def share(changed: Shape) -> float:
        takes = forecast(measured(), WAYS["whole"], changed)
        return (takes.study[1] - takes.start) / (takes.without_race - takes.start)

    assert share(shape) == share(replace(shape, trials=80, races=False)) == pytest.approx(1.0)
    assert share(replace(shape, trials=80)) < share(replace(shape, trials=20)) < 0.7


def test_samplers_make_an_epoch_longer_or_shorter_on_the_mean():
    """90 and 10 rows: repeated to 90 each, cut to 10 each, or as they are."""
    assert mean_growth([90, 10], ["none"], (1.0, 1.0)) == 1.0
    assert mean_growth([90, 10], ["random_over"], (1.0, 1.0)) == pytest.approx(1.8)
    assert mean_growth([90, 10], ["random_under"], (1.0, 1.0)) == pytest.approx(0.2)
    assert mean_growth([90, 10], ["none", "random_over"], (1.0, 1.0)) == pytest.approx(1.4)


def test_the_ways_that_a_study_trains():
    """From its values of trainable_layers and lora_rank; low-rank updates go with neither."""
    assert [way.name for way in ways_of([None], [None])] == ["whole"]
    assert [way.name for way in ways_of([0, 3, None], [None])] == ["head", "top-3", "whole"]
    assert [way.params for way in ways_of([None], [4, None])] == [{"lora_rank": 4}, {}]


@pytest.mark.parametrize("seconds", [1, 45, 60, 89, 150, 1800, 5400, 36_000])
def test_times_in_words_are_read_back(seconds):
    """What is printed can be typed after --time."""
    assert parse_time(in_words(seconds)) == seconds


@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_shortest_time_that_is_said_works_with_every_preset(preset):
    """Each of them takes another share of the time."""
    said = reason(fit(measured(), LOAD, seconds=5.0, preset=preset))
    shortest = parse_time(said.partition("is about ")[2].partition(",")[0])
    assert fit(measured(), LOAD, seconds=shortest, preset=preset).fits


@pytest.mark.parametrize("preset", list(PRESETS))
def test_documents_that_are_cut_whatever_is_chosen_get_a_study(preset):
    """Every length of a CPU loses more than 30% of their tokens."""
    long = measured(lengths=np.full(100, 600), tokens=256, forward=0.05)
    found = fit(long, replace(LOAD, num_rows=2000), seconds=5 * MINUTE, preset=preset)
    assert found.shape.max_length <= 256


def test_workers_that_share_the_cores_are_no_faster_together():
    """On GPUs of their own they are."""
    shape = Shape(load=LOAD, num_folds=5, epochs=(10, 10), max_length=64, trials=10, races=False)
    for found, share in ((measured(), 1.0), (measured(num_gpus=4), 0.25)):
        alone, together = (forecast(found, WAYS["whole"], replace(shape, workers=workers)) for workers in (1, 4))
        work = together.without_race - together.start
        assert work == pytest.approx(share * (alone.without_race - alone.start))
