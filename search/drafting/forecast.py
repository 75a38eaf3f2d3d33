"""How long a study takes on a machine that was measured: an epoch, a trial, and all of it with and without the race."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from fold_search.search.drafting.measured import Measured
from fold_search.search.drafting.ways import Way
from fold_search.search.racing.work_left import expected_work

EPOCH_SECONDS = 0.1  # to write an epoch's score and checkpoint, and to ask the race
RUN_SECONDS = 1.0  # of a fold run beside its epochs: its model, its predictions
PROCESSES = 2  # load the libraries one after the other: the run, then its workers
# After an epoch the validation rows pass forward, and a quarter as many training rows. A training step is about three
# passes.
EVALUATED = 1.25 / 3.0
EMBEDDING = {"near_miss", "tomek_links", "enn", "smote", "smote_enn"}  # samplers


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the data makes of every study on it."""

    num_rows: int
    most_folds: int  # that the classes have rows for
    growth: float = 1.0  # how many times as long an epoch is on the mean, since samplers add rows or remove them
    embeds: bool = False  # a sampler looks for neighbours among the frozen encoder's states


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a study, for one way of training."""

    load: Load
    num_folds: int
    epochs: tuple[int, int]  # of a fold run, at least and at most
    max_length: int  # of images 0
    trials: int
    workers: int = 1
    races: bool = True  # bad trials are stopped early

    def steps(self, batch_size: int) -> int:
        """Return the steps of an epoch."""
        return self.load.num_rows * (self.num_folds - 1) // self.num_folds // batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds that a study takes; `study` with the race, from what recorded studies need at least and at most."""

    epoch: float
    fold_run: float
    trial: float
    start: float  # until the first epoch: loading, preparing all rows
    study: tuple[float, float]
    without_race: float


def forecast(measured: Measured, way: Way, shape: Shape) -> Forecast:
    """Return what a study of this shape takes."""
    training = shape.load.num_rows * (shape.num_folds - 1) / shape.num_folds
    evaluated = EVALUATED * shape.load.num_rows / shape.num_folds
    row = measured.mean_seconds(measured.training[way.name], max_length=shape.max_length)
    epoch = EPOCH_SECONDS + (shape.load.growth * training + evaluated) * row
    fold_run = RUN_SECONDS + fmean(shape.epochs) * epoch + (0.0 if way.layers == 0 else measured.loading)
    trial = shape.num_folds * fold_run
    start = PROCESSES * measured.start + measured.loading + shape.load.num_rows * _prepared(measured, way, shape)
    # Workers without a device of their own share the one that was measured.
    everything = shape.trials * trial / min(shape.workers, max(1, measured.num_gpus))
    low, high = expected_work(
        num_trials=shape.trials, num_folds=shape.num_folds, num_workers=shape.workers, racing=shape.races
    )
    return Forecast(
        epoch=epoch,
        fold_run=fold_run,
        trial=trial,
        start=start,
        study=(start + low * everything, start + high * everything),
        without_race=start + everything,
    )


def mean_growth(counts: Sequence[int], samplers: Sequence[str], ratios: tuple[float, float]) -> float:
    """Return how many times as long an epoch is on the mean over `samplers`, each as likely as the others.

    `counts` are the rows of the classes; `ratios` the least and the largest sampler_ratio.
    """
    total, largest, smallest = sum(counts), max(counts), min(counts)

    def grown(ratio: float) -> float:
        return sum(max(count, ratio * largest) for count in counts) / total

    def cut(ratio: float) -> float:
        return sum(min(count, smallest / ratio) for count in counts) / total

    growths = {"random_over": grown(1.0)}
    growths |= dict.fromkeys(("minority_over", "smote", "smote_enn"), fmean(map(grown, ratios)))
    growths |= dict.fromkeys(("random_under", "near_miss"), fmean(map(cut, ratios)))
    return fmean(growths.get(name, 1.0) for name in samplers)


def _prepared(measured: Measured, way: Way, shape: Shape) -> float:
    """Return the seconds of a row before any training: tokens or pixels, and what frozen layers make of them."""
    forward = measured.mean_seconds(measured.forward, max_length=shape.max_length)
    passes = 1.0 if way.layers == 0 or shape.load.embeds else 0.0
    if way.layers and measured.num_layers:
        passes += max(0.0, 1.0 - way.layers / measured.num_layers)
    return measured.preparing + passes * forward
