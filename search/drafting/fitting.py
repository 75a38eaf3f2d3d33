"""The study that fits the time: what of the encoder is trained, in how many folds, epochs and trials."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fold_search.search.drafting.forecast import Forecast, Load, Shape, forecast
from fold_search.search.drafting.measured import Measured
from fold_search.search.drafting.ways import WAYS, Way

SHARE_OF_TIME = 0.9  # the rest is for what no forecast knows
SHORTER = (128, 64, 32)  # tokens
MOST_CUT = 0.3  # share of all tokens that is given up for more trials
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
    share: float  # of it, that the study is to take
    fits: bool  # false: not even one trial is complete within the time

    def summary(self) -> dict[str, Any]:
        """Return what is compared in the end with what the study took, as JSON."""
        hours = [self.shape.workers * seconds / 3600.0 for seconds in self.takes.study]
        return {"trials": self.shape.trials, "workers": self.shape.workers, "gpu_hours": hours}


def fit(measured: Measured, load: Load, *, seconds: float, preset: str) -> Fit:
    """Choose the strongest way of training that has enough trials within the time.

    Where none has, the cheapest one, with as many trials as fit, of fewer tokens if it must be.
    """
    fitting = _Fitting(measured=measured, load=load, seconds=seconds, preset=PRESETS[preset])
    ways = [way for way in WAYS.values() if way.name in measured.training and _is_sensible(way, measured)]
    length = proposed_length(measured)
    for way in ways:
        for shape in fitting.shapes(way, length):
            if fitting.has_enough(found := fitting.fitted(way, shape)):
                return found
    cheapest = min(ways, key=lambda way: forecast(measured, way, next(fitting.shapes(way, length))).study[1])
    lengths = [length, *(shorter for shorter in SHORTER if shorter < length)]
    little_cut = [length, *(shorter for shorter in lengths[1:] if measured.share_cut(shorter) <= MOST_CUT)]
    for considered in (little_cut, lengths):
        tried = [fitting.fitted(cheapest, shape) for length in considered for shape in fitting.shapes(cheapest, length)]
        best = max(tried, key=lambda found: (found.fits, found.shape.trials, -found.takes.study[1]))
        if best.fits:
            return next(filter(fitting.has_enough, tried), best)
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitting:
    measured: Measured
    load: Load
    seconds: float
    preset: Preset

    def shapes(self, way: Way, length: int) -> Iterator[Shape]:
        """Yield studies from the best to the smallest: all epochs or just enough, in more folds or fewer."""
        folds = sorted({min(k, self.load.most_folds) for k in self.preset.folds}, reverse=True)
        for is_full in (True, False):
            for num_folds in folds:
                shape = Shape(
                    load=self.load,
                    num_folds=num_folds,
                    epochs=(1, 1),
                    max_length=length,
                    trials=self.preset.most,
                    workers=max(1, self.measured.num_gpus),
                )
                yield replace(shape, epochs=epochs_of(way, shape, self.measured, is_full=is_full))

    def fitted(self, way: Way, shape: Shape) -> Fit:
        """Return the study with as many trials as fit; with one where none does."""
        trials, limit = self.preset.most, self.preset.share * self.seconds
        while trials > 1 and forecast(self.measured, way, replace(shape, trials=trials)).study[1] > limit:
            trials -= 1
        shape = replace(shape, trials=trials)
        takes = forecast(self.measured, way, shape)
        fits = takes.study[1] <= limit
        return Fit(
            measured=self.measured,
            way=way,
            shape=shape,
            takes=takes,
            seconds=self.seconds,
            share=self.preset.share,
            fits=fits,
        )

    def has_enough(self, found: Fit) -> bool:
        """Whether there are as many trials as a search needs."""
        return found.fits and found.shape.trials >= self.preset.fewest


def epochs_of(way: Way, shape: Shape, measured: Measured, *, is_full: bool = True) -> tuple[int, int]:
    """Return the range of epochs that is searched; less than `is_full` where time is short."""
    most = way.epochs(shape.steps(measured.batch_size))[is_full]
    return max(2, most // 2), most


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
            epochs = epochs_of(way, fit.shape, fit.measured)
            shape = replace(fit.shape, epochs=epochs, trials=COMPARED_TRIALS)
            yield way, forecast(fit.measured, way, shape)


def _is_sensible(way: Way, measured: Measured) -> bool:
    """Low-rank updates save memory, not time: they are for encoders that do not fit as a whole."""
    return way.name not in measured.problems and (way.name != "lora" or "whole" in measured.problems)
