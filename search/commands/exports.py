"""Commands that export a model or curves, and that use an exported model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fold_search.search.commands.answers import new_console, new_steps, print_json, say
from fold_search.search.commands.options import (
    batch_size_option,
    columns_option,
    encoding_option,
    find_study,
    images_option,
    json_option,
    machine_option,
    memory_option,
    model_option,
    quotes_option,
    storage_option,
    study_option,
)

if TYPE_CHECKING:
    from fold_search.objectives.data.sources import Quotes
    from fold_search.search.study.opened import OpenStudy

LOADING = "loading torch and transformers"  # takes seconds


@click.command("export")
@study_option
@click.option("--trial", type=click.IntRange(min=0), help="The trial's number.  [default: the best one]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write the model to.")
@click.option(
    "--form",
    type=click.Choice(["ensemble", "refit", "fold"]),
    default="ensemble",
    show_default=True,
    help="ensemble: all folds' models together; refit: one model trained on all rows; fold: the best fold's model.",
)
@click.option("--baseline", is_flag=True, help="Export the TF-IDF baseline instead of a trial; it needs none.")
@storage_option
@machine_option
@memory_option
@click.option("--force", is_flag=True, help="Replace a model that is already in the folder.")
@click.option("--mlflow", is_flag=True, help="Make the folder an MLflow model too.")
@click.option(
    "--register", metavar="NAME", help="Do as --mlflow, and register the model under NAME in the study's MLflow."
)
def export(
    name: str,
    trial: int | None,
    out: Path,
    form: Literal["ensemble", "refit", "fold"],
    baseline: bool,
    storage: str | None,
    overrides: Sequence[str],
    memory_limit: int | None,
    force: bool,
    mlflow: bool,
    register: str | None,
) -> None:
    """Export the best model to a folder that can be used without the study.

    That is the best trial, or the TF-IDF baseline if it is as good once the luck of the best trial is taken off;
    --trial and --baseline choose. While no trial is complete, a provisional model of what is trained by now is
    exported.
    """
    if baseline and (trial is not None or mlflow or register):
        raise click.UsageError("--baseline takes no --trial, --mlflow or --register")
    mlflow = mlflow or register is not None
    with new_steps() as steps:
        steps.step(LOADING)
        study = find_study(name, storage)
        better = None if trial is not None else _better_baseline(study)
        if baseline or (better and not mlflow):
            from fold_search.search.exporting.baseline import export_baseline

            export_baseline(study, out, form=form, overrides=overrides, force=force)
            if not baseline:
                say(f"note: this is the baseline, since {better}")
            say(f"wrote {out}; next: search predict --model {out} data.csv --out predictions.csv")
            return
        from fold_search.search.exporting.export import export
        from fold_search.search.running.objective import memory_limited

        with memory_limited(memory_limit):
            description = export(
                study,
                out,
                form=form,
                trial=trial,
                overrides=overrides,
                force=force,
                mlflow=mlflow,
                say=steps.aside(say),
                step=steps.step,
            )
    if better:
        say(f"note: {better}; --baseline exports that one, which cannot be an MLflow model")
    if description.provisional:
        say(f"note: provisional: trial {description.trial} is not complete, {description.provisional}")
    if register is not None:
        from fold_search.search.exporting import mlflow_model

        version = mlflow_model.register(study, out, description, name=register, overrides=overrides)
        say(f"registered {register}, version {version}; search ui --study {name} shows it")
    say(f"wrote {out}; next: search predict --model {out} data.csv --out predictions.csv")


def _better_baseline(study: "OpenStudy") -> str | None:
    """Why the TF-IDF baseline is rather exported than the best trial; None if it is not as good."""
    from fold_search.objectives.baselines.folds import TFIDF
    from fold_search.search.reporting.baselines import better_baseline
    from fold_search.search.reporting.provisional import find_provisional
    from fold_search.search.reporting.summary import summarise

    if (best := summarise(study.ledger).best) is not None:
        return better_baseline(study.ledger, best.trial, dict(enumerate(best.fold_scores)), name=TFIDF)
    if (found := find_provisional(study.ledger)) is not None:
        scores = {run.fold: score for run, score in zip(found.runs, found.scores, strict=True)}
        return better_baseline(study.ledger, found.trial.number, scores, name=TFIDF)
    return better_baseline(study.ledger, None, {}, name=TFIDF)


@click.command("export-curves")
@study_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write, .npz.")
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="File of labelled rows that the study never saw; every trial is scored on it too.",
)
@encoding_option
@quotes_option
@storage_option
@machine_option
def export_curves(
    name: str,
    out: Path,
    test: Path | None,
    encoding: str | None,
    quotes: "Quotes | None",
    storage: str | None,
    overrides: Sequence[str],
) -> None:
    """Write the scores of all epochs and folds to one file.

    With it the race can be replayed with other settings.
    """
    from fold_search.search.exporting.curves import HeldOutFile, export_curves

    held_out = None if test is None else HeldOutFile(path=test, encoding=encoding, quotes=quotes)
    curves = export_curves(find_study(name, storage), out, test=held_out, overrides=overrides, say=say)
    trials, folds, epochs = curves.standing.shape
    say(f"wrote {out}: {trials} trials, {folds} folds, at most {epochs} epochs")


@click.command("predict")
@model_option
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The CSV file to write.")
@click.option(
    "--keep", multiple=True, metavar="COLUMN", help="Copy this column of DATA to the output; repeat for more."
)
@click.option("--top-k", type=click.IntRange(min=1), help="Write only the K most probable classes of each row.")
@click.option("--no-probabilities", is_flag=True, help="Write no probability columns.")
@click.option(
    "--template",
    type=click.Path(path_type=Path),
    help="YAML file that names the columns to write and the codes of labels.",
)
@columns_option
@images_option
@encoding_option
@quotes_option
@batch_size_option
@memory_option
def predict(
    folder: Path,
    data: Path,
    out: Path,
    keep: Sequence[str],
    top_k: int | None,
    no_probabilities: bool,
    template: Path | None,
    columns: Sequence[str],
    images: Path | None,
    encoding: str | None,
    quotes: "Quotes | None",
    batch_size: int | None,
    memory_limit: int | None,
) -> None:
    """Predict with an exported model.

    DATA is a file with rows, or for an image model also a folder or zip file of images.
    """
    if template is not None and (keep or top_k or no_probabilities):
        raise click.UsageError("--template already names all columns; remove --keep, --top-k and --no-probabilities")
    with new_steps() as steps:
        steps.step(LOADING)
        from fold_search.search.exporting.layout import read_template, usual_layout
        from fold_search.search.exporting.predict import OtherFile, is_image_folder, load_model, parse_columns, predict
        from fold_search.search.running.objective import memory_limited

        other = OtherFile(columns=parse_columns(columns), images=images, encoding=encoding, quotes=quotes)
        steps.step("checking the model's files")
        model = load_model(folder, batch_size=batch_size)
        if template is not None:
            layout = read_template(template, model.description)
        else:
            keep = keep or (("file",) if is_image_folder(model.description, data) else ())
            layout = usual_layout(model.description, keep=keep, top_k=top_k, probabilities=not no_probabilities)
        with memory_limited(memory_limit):
            num_rows = predict(model, data, out, layout=layout, other=other, steps=steps)
    say(f"wrote {out}: {num_rows:,} rows")


@click.command("evaluate")
@model_option
@click.argument("data", type=click.Path(path_type=Path))
@columns_option
@images_option
@encoding_option
@quotes_option
@batch_size_option
@memory_option
@json_option
def evaluate(
    folder: Path,
    data: Path,
    columns: Sequence[str],
    images: Path | None,
    encoding: str | None,
    quotes: "Quotes | None",
    batch_size: int | None,
    memory_limit: int | None,
    as_json: bool,
) -> None:
    """Score an exported model on a labelled file, beside its score in the study."""
    with new_steps() as steps:
        steps.step(LOADING)
        from fold_search.search.exporting.predict import (
            OtherFile,
            evaluate,
            evaluation_as_json,
            load_model,
            parse_columns,
            render_evaluation,
        )
        from fold_search.search.running.objective import memory_limited

        other = OtherFile(columns=parse_columns(columns), images=images, encoding=encoding, quotes=quotes)
        steps.step("checking the model's files")
        model = load_model(folder, batch_size=batch_size)
        with memory_limited(memory_limit):
            evaluation = evaluate(model, data, other=other, steps=steps)
    if as_json:
        print_json(evaluation_as_json(evaluation, model.description))
    else:
        new_console().print(render_evaluation(evaluation, model.description))
