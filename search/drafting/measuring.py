"""Measures an encoder in a process of its own: this one goes on without torch, whatever happens there."""

import time

from fold_search.models.errors import EncoderError
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import OutOfMemory
from fold_search.search.drafting.measured import Measured
from fold_search.search.errors import ConfigError
from fold_search.search.study.checks import other_process

PROBE_SECONDS = 25.0  # beside the time to load libraries and rows


class NotMeasured(Exception):
    """The encoder cannot be tried here; the message says why."""


def try_encoder(spec: DataSpec, encoder: str, *, image_size: int) -> Measured:
    """Return what a few steps of the encoder take here; raises DataError, NotMeasured."""
    try:
        with other_process() as child:
            return child.submit(
                _measure, spec, encoder, asked=time.time(), seconds=PROBE_SECONDS, image_size=image_size
            ).result()
    except (EncoderError, OutOfMemory, ConfigError) as error:
        raise NotMeasured(str(error)) from error


def _measure(spec: DataSpec, encoder: str, *, asked: float, seconds: float, image_size: int) -> Measured:
    from fold_search.search.drafting.probe import measure

    return measure(spec, encoder, asked=asked, seconds=seconds, image_size=image_size)
