"""The study that fits the time: what of the encoder is trained, in how many folds, epochs and trials."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fold_search.search.drafting.forecast import Forecast, Shape, forecast
from fold_search.search.drafting.measured import Measured
from fold_search.search.drafting.ways import WAYS, Way

SHARE_OF_TIME = 0.9  # the rest is for what no forecast knows
SHORTER = (128, 64, 32)  # tokens, where nothing fits otherwise
COMPARED_TRIALS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How the time is spent."""

    share: float  # of the time, that the study is to take
    fewest: int  # trials: a way of training with fewer of them in the time is not chosen
    most: int  # trials
    folds: tuple[int, ...]  # the first that fits


PRESETS = {
    "quick": Preset(share=0.3, fewest=6, most=15, folds=(3,)),
    "balanced": Preset(share=SHARE_OF_TIME, fewest=10, most=40, folds=(5, 3)),
    "thorough": Preset(share=SHARE_OF_TIME, fewest=5, most=100, folds=(5, 3)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A study that fits, or comes nearest to it, and what it takes."""

    measured: Measured
    way: Way
    shape: Shape
    takes: Forecast
    seconds: float  # the time that there is
    fits: bool  # false: not even one trial is complete within the time


def fit(measured: Measured, *, num_rows: int, most_folds: int, seconds: float, preset: str, embeds: bool) -> Fit:
    """Choose the strongest way of training that has enough trials within the time.

    Where none has, the cheapest one, with as many trials as fit, of fewer tokens if it must be.
    """
    chosen = PRESETS[preset]
    limit = chosen.share * seconds
    workers = max(1, measured.num_gpus)
    folds = sorted({min(k, most_folds) for k in chosen.folds}, reverse=True)
    ways = [way for way in WAYS.values() if way.name in measured.training and _is_sensible(way, measured)]
    length = proposed_length(measured)

    def shapes(way: Way, length: int) -> Iterator[Shape]:
        for full in (True, False):
            for num_folds in folds:
                steps = num_rows * (num_folds - 1) // num_folds // measured.batch_size
                epochs = way.epochs(steps)[full]
                yield Shape(
                    num_rows=num_rows,
                    num_folds=num_folds,
                    epochs=epochs,
                    max_length=length,
                    trials=chosen.most,
                    workers=workers,
                    embeds=embeds,
                )

    def fitted(way: Way, shape: Shape) -> Fit:
        found = [replace(shape, trials=trials) for trials in range(1, chosen.most + 1)]
        within = [one for one in found if forecast(measured, way, one).study[1] <= limit]
        best = within[-1] if within else found[0]
        takes = forecast(measured, way, best)
        return Fit(measured=measured, way=way, shape=best, takes=takes, seconds=seconds, fits=bool(within))

    for way in ways:
        for shape in shapes(way, length):
            if (found := fitted(way, shape)).fits and found.shape.trials >= chosen.fewest:
                return found
    cheapest = min(ways, key=lambda way: forecast(measured, way, next(shapes(way, length))).study[1])
    lengths = [length, *(shorter for shorter in SHORTER if shorter < length)]
    tried = [fitted(cheapest, shape) for length in lengths for shape in shapes(cheapest, length)]
    enough = (found for found in tried if found.fits and found.shape.trials >= chosen.fewest)
    return next(enough, max(tried, key=lambda found: (found.fits, found.shape.trials, -found.takes.study[1])))


def default_seconds(measured: Measured) -> float:
    """Return the time that is assumed if none is given: 8 hours on a GPU, else half an hour."""
    return 8 * 3600.0 if measured.num_gpus else 1800.0


def proposed_length(measured: Measured) -> int:
    """Return the tokens that hold 95% of the texts, in steps of 32, up to what was measured; 0 for images."""
    return min(measured.longest, 32 * -(-measured.most(0.95) // 32)) if measured.tokens else 0


def compared(fit: Fit) -> Iterator[tuple[Way, Forecast]]:
    """Yield each way that was measured with what 20 trials of it take, in the folds and tokens of the study."""
    for way in WAYS.values():
        if way.name in fit.measured.training and way.name not in fit.measured.problems:
            steps = fit.shape.num_rows * (fit.shape.num_folds - 1) // fit.shape.num_folds // fit.measured.batch_size
            shape = replace(fit.shape, epochs=way.epochs(steps)[1], trials=COMPARED_TRIALS)
            yield way, forecast(fit.measured, way, shape)


def _is_sensible(way: Way, measured: Measured) -> bool:
    """Low-rank updates save memory, not time: they are for encoders that do not fit as a whole."""
    return way.name not in measured.problems and (way.name != "lora" or "whole" in measured.problems)
