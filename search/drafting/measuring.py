"""Measures an encoder in a process of its own: this one goes on without torch, whatever happens there."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fold_search.models.errors import EncoderError
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError, TrialError
from fold_search.search.drafting.measured import Measured, Memory, Wanted
from fold_search.search.drafting.ways import Way
from fold_search.search.errors import ConfigError
from fold_search.search.study.checks import other_process

P = ParamSpec("P")
T = TypeVar("T")

PROBE_SECONDS = 25.0  # beside the time to load libraries and rows


class NotMeasured(Exception):
    """The encoder cannot be tried here; the message says why."""


def try_encoder(spec: DataSpec, encoder: str, wanted: Wanted) -> Measured:
    """Return what a few steps of the encoder take here; raises NotMeasured."""
    found = _elsewhere(measure_here, spec, encoder, wanted, asked=time.time())
    if not found.training.keys() - found.problems.keys():
        raise NotMeasured("; ".join(dict.fromkeys(found.problems.values())))
    return found


def try_memory(spec: DataSpec, encoder: str, wanted: Wanted, way: Way, *, batch_size: int) -> Memory:
    """Return what memory a training step takes here; raises NotMeasured if it is more than there is."""
    return _elsewhere(weigh_here, spec, encoder, wanted, way, batch_size=batch_size)


def _elsewhere(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        with other_process() as child:
            return child.submit(function, *args, **kwargs).result()
    except (EncoderError, TrialError, DataError, ConfigError) as error:
        raise NotMeasured(str(error)) from error


def measure_here(spec: DataSpec, encoder: str, wanted: Wanted, *, asked: float) -> Measured:
    """Measure in this process, which loads torch."""
    from fold_search.search.drafting.probe import measure

    return measure(spec, encoder, wanted, asked=asked, seconds=PROBE_SECONDS)


def weigh_here(spec: DataSpec, encoder: str, wanted: Wanted, way: Way, *, batch_size: int) -> Memory:
    """The same for memory."""
    from fold_search.search.drafting.probe import measure_memory

    return measure_memory(spec, encoder, wanted, way, batch_size=batch_size)
