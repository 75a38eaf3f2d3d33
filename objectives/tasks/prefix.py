"""The frozen lower part of an encoder, run once per study on all rows; its states are kept on disk and memory-mapped.

::

    tokens --> frozen lower layers --> states on disk --> trained upper layers --> head
               once per study          (tokens, width)    every epoch

Every epoch of every trial with the same number of trained layers starts from these states, so the lower layers cost
their time only once. This is exact only if they see the same input each time and draw nothing at random: augmented rows
and low-rank updates run the whole encoder.
"""

import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from fold_search.models.encoders import load_config, load_encoder
from fold_search.models.reading import lower_states, read_states, upper_states
from fold_search.objectives.devices import rows_per_forward
from fold_search.objectives.jobs import Rows
from fold_search.objectives.memory import RowsAtOnce
from fold_search.objectives.stages import stage
from fold_search.objectives.tasks.cache import filled
from fold_search.objectives.tasks.continued import continued
from fold_search.objectives.tasks.feeds import Batch

MAX_DISK_SHARE = 0.25  # of the free space: one study may need several of these, and others use the disk too

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The states of every row's tokens below the trained layers, one row after the other.

    The windows of a row lie one after the other and all have the same length.
    """

    states: NDArray[np.float32]  # (tokens, width), memory-mapped
    starts: NDArray[np.int64]  # (rows,): where a row's states begin
    lengths: NDArray[np.int64]  # (rows,): tokens of all its windows
    num_windows: NDArray[np.int64]  # (rows,)

    def batch(self, rows: Rows) -> Batch:
        """Return `states`, (windows, tokens, width), 0 where padded, their mask and, of several, `row_of_window`."""
        num_windows = self.num_windows[rows]
        lengths = np.repeat(self.lengths[rows] // num_windows, num_windows)
        states = np.zeros((len(lengths), int(lengths.max()), self.states.shape[1]), np.float32)
        first = 0
        for row, count in zip(rows, num_windows, strict=True):
            own = self.states[self.starts[row] : self.starts[row] + self.lengths[row]]
            windows = own.reshape(count, -1, self.states.shape[1])
            states[first : first + count, : windows.shape[1]] = windows
            first += count
        mask = (np.arange(states.shape[1]) < lengths[:, None]).astype(np.int64)
        arrays = {"states": states, "attention_mask": mask}
        if len(lengths) > len(rows):
            arrays["row_of_window"] = np.repeat(np.arange(len(rows)), num_windows)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def frozen_prefix(
    folder: Path,
    *,
    encoder: str,
    num_layers: int,
    batch: Callable[[Rows], Batch],
    lengths: NDArray[np.int64],
    device: str,
) -> Prefix | None:
    """Return the states of all rows below the `num_layers` top layers; computed first if `folder` is not there.

    `batch` gives rows as token ids, `lengths`, (rows,), their numbers of tokens. None means that the whole encoder has
    to be run: its family cannot start in the middle, or the states would take more than a quarter of the free disk.
    Raises EncoderError, OSError.
    """
    if not folder.is_dir():
        size = int(lengths.sum()) * int(load_config(encoder).hidden_size) * np.float32().itemsize
        folder.parent.mkdir(parents=True, exist_ok=True)
        if size > MAX_DISK_SHARE * shutil.disk_usage(folder.parent).free:
            _say_once(
                f"{folder.parent}: the frozen layers' states would take {size / 1e9:.3g} GB, more than "
                f"{MAX_DISK_SHARE:.0%} of what is free; every epoch runs these layers instead"
            )
            return None

    def fill(complete: Path) -> None:
        with stage("loading the encoder"):
            model = load_encoder(encoder).eval()
            torch.nn.Module.to(model, device)
        _fill(complete, model, num_layers=num_layers, batch=batch, lengths=lengths)

    arrays = filled(folder, fill)
    return Prefix(lengths=lengths, **arrays) if arrays else None


def windows_in_parts(batch: Batch, *, size: int, device: str) -> Iterator[Batch]:
    """Yield `input_ids` and `attention_mask`, at most `size` lines of them at a time, on the device."""
    for start in range(0, len(batch["input_ids"]), size):
        yield {name: batch[name][start : start + size].to(device) for name in ("input_ids", "attention_mask")}


@torch.inference_mode()
def _fill(
    folder: Path,
    encoder: PreTrainedModel,
    *,
    num_layers: int,
    batch: Callable[[Rows], Batch],
    lengths: NDArray[np.int64],
) -> None:
    """Write the arrays of a Prefix, with rows of similar length together; nothing if the encoder has no middle."""
    order = np.argsort(lengths, kind="stable")  # so that a batch has little padding
    device = encoder.device
    size = rows_per_forward(device)
    # The shortest row, a middle one and the longest, so that padding has an effect.
    probe = next(windows_in_parts(batch(order[[0, len(order) // 2, -1]]), size=size, device=str(device)))
    width = _width_between(encoder, probe, num_layers=num_layers)
    if width is None:
        return  # the empty folder tells the next one that asks
    at_once = RowsAtOnce(rows=size, device=device)
    num_windows = np.ones(len(order), np.int64)
    starts = np.cumsum(lengths) - lengths
    # Written part by part: the states of all rows may be larger than memory.
    with (
        continued(folder / "states.npy", shape=(int(lengths.sum()), width), dtype=np.float32) as array,
        stage("embedding rows", total=len(order)) as advance,
    ):
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            inputs = batch(chosen)
            if "row_of_window" in inputs:
                num_windows[chosen] = np.bincount(inputs["row_of_window"].numpy())
            if start + len(chosen) > array.done:
                states = np.concatenate(at_once.attempt(partial(_states, inputs, encoder, num_layers)))
                for row, own in zip(chosen, np.split(states, np.cumsum(lengths[chosen])[:-1]), strict=True):
                    array.write(starts[row], own)
                array.note(start + len(chosen))
            advance(len(chosen))
    np.save(folder / "starts.npy", starts)
    np.save(folder / "num_windows.npy", num_windows)


def _states(batch: Batch, encoder: PreTrainedModel, num_layers: int, size: int) -> list[NDArray[np.float32]]:
    """Return the states of the tokens, (tokens, width), of at most `size` lines at a time."""
    parts = windows_in_parts(batch, size=size, device=str(encoder.device))
    return [
        lower_states(encoder, num_layers=num_layers, **part)[part["attention_mask"] > 0].cpu().numpy() for part in parts
    ]


def _width_between(encoder: PreTrainedModel, inputs: Batch, *, num_layers: int) -> int | None:
    """Return the width of the states between the encoder's lower and upper part.

    None if the two parts together do not give what the whole encoder gives.
    """
    mask = inputs["attention_mask"]
    whole = read_states(encoder, **inputs)
    try:
        # Padding is not kept, so it must not make a difference.
        states = lower_states(encoder, num_layers=num_layers, **inputs) * mask.unsqueeze(-1)
        if states.ndim != 3:  # Gemma 3n passes on several states of each token
            return None
        found = upper_states(encoder, num_layers=num_layers, states=states, attention_mask=mask)
    except Exception as error:
        # A family's forward pass may raise anything for states that it did not make itself.
        log.debug("%s cannot be run from the middle: %s", encoder.config.model_type, error)
        return None
    kept = mask > 0
    same = found.shape == whole.shape and torch.allclose(found[kept], whole[kept], rtol=1e-5, atol=1e-5)
    return states.shape[2] if same else None


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)
