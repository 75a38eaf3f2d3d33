"""A training as a model folder of one member, for tests of what is predicted by it."""

from pathlib import Path

from fold_search.objectives.data.dataset import Dataset
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.predicting.exported import (
    DESCRIPTION,
    Description,
    ExportedModel,
    Member,
    trained_classifier,
    write_classifier,
)
from fold_search.objectives.tasks.feeds import Inputs
from fold_search.objectives.training.fold import FoldTraining, read_weights


def export(training: FoldTraining, folder: Path, *, job: FoldJob, inputs: Inputs, dataset: Dataset) -> ExportedModel:
    """Write the model of the training's best epoch, and read it again."""
    model = job.params.model
    classifier = trained_classifier(job, read_weights(training.best_weights, job=job), inputs=inputs, device="cpu")
    checksums = write_classifier(classifier, folder / "fold-0", encoder=model.encoder)
    member = Member(folder="fold-0", fold=0, epochs=1, score=0.5, class_counts=(1, 1), checksums=checksums)
    description = Description(
        form="fold",
        study="one",
        trial=0,
        task=job.task,
        label_names=job.label_names,
        data=dataset.spec,
        params=job.params,
        max_length=model.max_length,
        goal=job.goal,
        fold_scores=(0.5, 0.5),
        pooled={},
        temperature=1.0,
        members=(member,),
        packages={},
        fingerprints={},
    )
    (folder / DESCRIPTION).write_text(description.model_dump_json())
    return ExportedModel(folder, device="cpu")
