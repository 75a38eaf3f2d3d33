"""What was measured of an encoder on a machine, and what follows from it for all rows of the data."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fold_search.search.drafting.ways import WAYS, Way


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be measured of an encoder."""

    ways: tuple[Way, ...] = tuple(WAYS.values())
    longest: int | None = None  # the largest max_length; None: what such a machine reads in good time
    image_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What memory a training step takes, in bytes."""

    peak: int
    total: int  # that the device or the machine has
    rows_at_once: int  # of a batch; fewer than the batch has where memory ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a few steps of an encoder took on one machine. The seconds of a row are those of a row of median length."""

    device: str  # in words
    num_gpus: int
    is_busy: bool  # other programs used the cores when it was measured
    start: float  # seconds until a new process has loaded what it needs
    batch_size: int
    tokens: int  # of the median row, cut at `longest`; of images 0
    longest: int  # the max_length that was measured; of images 0
    training: dict[str, float]  # seconds of a row in a training step, by the name of the way
    estimated: tuple[str, ...]  # the ways there was no time for: their seconds follow from the forward pass
    forward: float  # seconds of a row in a forward pass of the whole encoder
    preparing: float  # seconds of a row until it can be passed forward: tokens or pixels
    loading: float  # seconds to load the encoder
    growth: float  # the seconds of a row grow with its length to the power of this
    lengths: NDArray[np.int64]  # (sampled rows,): their tokens, not cut; of images all 1
    unknown: float  # share of tokens that the tokenizer does not know
    num_layers: int  # 0: it is not known
    problems: dict[str, str] = field(default_factory=dict)  # why a way cannot be trained here, by its name

    def mean_seconds(self, seconds: float, *, max_length: int) -> float:
        """Return the mean over all rows of what takes `seconds` of the median row, with texts cut at `max_length`."""
        if not self.tokens:
            return seconds
        cut = np.minimum(self.lengths, max_length)
        return seconds * float(((cut / self.tokens) ** self.growth).mean())

    def share_cut(self, max_length: int) -> float:
        """Return the share of all tokens that is lost when texts are cut at `max_length`."""
        return 1.0 - float(np.minimum(self.lengths, max_length).sum() / self.lengths.sum()) if self.tokens else 0.0

    def most(self, share: float) -> int:
        """Return the tokens that this share of the texts does not exceed."""
        return int(np.quantile(self.lengths, share))
