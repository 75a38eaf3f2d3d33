"""Lets the folds of one trial predict other rows, each with the weights that it was scored with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fold_search.objectives.devices import rows_per_forward, seeded
from fold_search.objectives.errors import TrialError
from fold_search.objectives.jobs import FoldJob, Rows
from fold_search.objectives.memory import RowsAtOnce
from fold_search.objectives.params import TOKEN_CHANGES
from fold_search.objectives.tasks.feeds import Inputs
from fold_search.objectives.training.networks import Network, as_predictions
from fold_search.objectives.training.sampling import as_sample


@torch.inference_mode()
def predict_folds(
    jobs: Sequence[FoldJob], weights: Sequence[Mapping[str, Tensor]], *, inputs: Inputs, num_rows: int, device: str
) -> NDArray[np.float32]:
    """Return each fold's predictions of all rows of `inputs`: probabilities (folds, rows, classes), or numbers.

    `jobs` are those of one trial, `weights` what `read_weights` gave for each. The network is built once, since the
    folds differ only in their weights. Raises EncoderError, DataError, and TrialError if the weights do not fit.
    """
    where = torch.device(device)
    with seeded(0, 0, where):
        network = Network(_of_rows(jobs[0], num_rows), inputs=inputs, device=where)
    network.module.eval()
    order = np.argsort(network.lengths(np.arange(num_rows)), kind="stable")
    at_once = RowsAtOnce(rows=rows_per_forward(where), device=where)

    def outputs_of(rows: Rows) -> Tensor:
        return network.outputs(network.inputs(as_sample(rows)))

    predictions = np.empty((len(jobs), num_rows, jobs[0].num_outputs), np.float32)
    for fold, (job, state) in enumerate(zip(jobs, weights, strict=True)):
        if set(state) != set(network.state):
            raise TrialError("the weights do not fit the model: others are trained")
        network.module.load_state_dict(dict(state), strict=False)
        scale = job.label_scale
        for rows, outputs in at_once.in_parts(order, outputs_of):
            predicted = as_predictions(outputs, task=job.task, scale=scale)
            predictions[fold, rows] = predicted.cpu().numpy()
    return predictions


def _of_rows(job: FoldJob, num_rows: int) -> FoldJob:
    """The job with the same model on other rows. It does not see their labels."""
    training = job.params.training.model_copy(update=dict.fromkeys(TOKEN_CHANGES, 0.0))
    return replace(
        job,
        params=job.params.model_copy(update={"training": training}),
        labels=np.zeros(num_rows, np.int64),
        training_rows=np.arange(num_rows),
        validation_rows=np.empty(0, np.int64),
    )
