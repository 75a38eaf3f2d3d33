"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

import click

if TYPE_CHECKING:
    from rich.console import Console

    from search.config import StudyConfig
    from search.environment import Secrets
    from search.study import OpenStudy

P = ParamSpec("P")

DEFAULT_STORAGE = "sqlite:///studies/search.db"
DEFAULT_MLFLOW = "sqlite:///studies/mlflow.db"
LONGEST_ERROR = 2000  # a label, say, may be as long as the file

study_option = click.option("--study", "name", required=True, metavar="NAME", help="The study's name.")
storage_option = click.option(
    "--storage", metavar="URL", help=f"The study's database.  [default: the study file's, else {DEFAULT_STORAGE}]"
)
model_option = click.option(
    "--model", "folder", type=click.Path(path_type=Path), required=True, help="The folder that `search export` wrote."
)
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(min=1), help="Rows of a forward pass.  [default: 128 on a GPU, else 32]"
)
images_option = click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="The folder or zip file that paths of images start at.  [default: the folder that DATA is in]",
)
columns_option = click.option(
    "--columns",
    multiple=True,
    metavar="STUDY=FILE,...",
    help="The file's own columns in place of the study's, as title=Title,abstract=Summary.",
)


def size(text: str) -> int:
    """The bytes of 512MB or 8GB; the units are powers of 1000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB)", text, re.IGNORECASE)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"found {text}, expected a size such as 512MB or 8GB")
    return int(float(found[1]) * {"MB": 10**6, "GB": 10**9}[found[2].upper()])


memory_option = click.option(
    "--memory-limit",
    type=size,
    metavar="SIZE",
    help="Memory of this machine that each worker process may hold, such as 8GB.  [default: no limit]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
host_option = click.option("--host", default="127.0.0.1", show_default=True, help="The address to bind to.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fold-search")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug logs.")
@click.pass_context
def app(context: click.Context, debug: bool) -> None:
    """Hyperparameter search for fine-tuned classifiers on imbalanced data; the fold is the unit of work."""
    context.obj = debug
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(message)s")


def main() -> None:
    """Run the command line; what the user can correct ends with one line and exit code 2."""
    app(prog_name="search")


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turn a user's errors into one line and exit code 2, and a returned number into the exit code."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from search.errors import USER_ERRORS

        debug = click.get_current_context().obj
        try:
            code = function(*args, **kwargs)
        except USER_ERRORS as error:
            if debug:
                raise
            _say(f"error: {' '.join(str(error).splitlines())[:LONGEST_ERROR]}", err=True)
            code = 2
        sys.exit(code or 0)

    return run


@app.command("init")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--label", metavar="COLUMN", help="The column with the class of a row, or its number.")
@click.option("--text", "text", multiple=True, metavar="COLUMN", help="A text column; repeat to join.")
@click.option("--image", metavar="COLUMN", help="In place of text: the column with the path of an image.")
@images_option
@click.option(
    "--task", type=click.Choice(["classification", "regression"]), default="classification", show_default=True
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("study.yaml"), show_default=True)
@click.option("--force", is_flag=True, help="Overwrite the study file.")
@command
def init(
    data: Path,
    label: str | None,
    text: tuple[str, ...],
    image: str | None,
    images: Path | None,
    task: Literal["classification", "regression"],
    out: Path,
    force: bool,
) -> None:
    """Look at a data file and write a study file for exactly that data.

    DATA may be a folder or a zip file with a folder of images for each class; nothing else need then be said.
    """
    from objectives.class_folders import FILE, FOLDER, is_class_folders
    from objectives.data import DataSpec
    from search.survey import render_table, survey
    from search.template import write_study_file

    if not text and is_class_folders(data):
        label, image = label or FOLDER, image or FILE
    if label is None or bool(text) == bool(image):
        raise click.UsageError("expected --label and either --text or --image, or a folder of images for each class")
    found = survey(DataSpec(path=data, label=label, text=text, image=image, images=images, task=task))
    console = _console()
    console.print(render_table(found))
    write_study_file(found, out, overwrite=force)
    console.print(f"wrote {out}; next: search run --study NAME --config {out}", highlight=False)


@app.command("run")
@study_option
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="The study file.")
@click.option("--trials", type=click.IntRange(min=1), help="Trials of the whole study: budget.trials.")
@click.option("--timeout", metavar="TIME", help="Time of this run, such as 2h or 90m: budget.time.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes.  [default: one a GPU, else 1]")
@memory_option
@storage_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key of the study file.")
@command
def run(
    name: str,
    file: Path,
    trials: int | None,
    timeout: str | None,
    workers: int | None,
    memory_limit: int | None,
    storage: str | None,
    overrides: Sequence[str],
) -> int:
    """Run a study, or continue it."""
    from search.config import load_config
    from search.environment import Secrets

    given = {"budget.trials": trials, "budget.time": timeout, "storage.url": storage}
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    config = load_config(file, [*overrides, *options])
    secrets = Secrets.read()
    from search.beginning import begin
    from search.study import reopen_if_budget_grew

    console = _console()
    study = begin(config, name, secrets=secrets, num_workers=workers or 1)
    for note in study.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if not reopen_if_budget_grew(study, config):
        console.print(f"study {name!r} is finished: all {len(study.ledger.trials())} trials; --trials N adds to them")
        return _print_best(study, console)
    return _run(study, config, workers=workers, memory_limit=memory_limit, secrets=secrets)


@app.command("worker")
@study_option
@storage_option
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes.  [default: one a GPU, else 1]")
@memory_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="data.path or storage.* of this machine.")
@command
def worker(
    name: str, storage: str | None, workers: int | None, memory_limit: int | None, overrides: Sequence[str]
) -> int:
    """Join a study from this or another machine: train its fold runs, and coordinate it when nobody else does."""
    from search.environment import Secrets
    from search.study import on_this_machine

    study = _find(name, storage)
    config = on_this_machine(study.record, overrides)
    return _run(study, config, workers=workers, memory_limit=memory_limit, secrets=Secrets.read())


@app.command("status")
@study_option
@storage_option
@json_option
@command
def status(name: str, storage: str | None, as_json: bool) -> None:
    """Show a study's trials, fold runs and best score."""
    from search.report import render_status, summarise, trials_as_json

    study = _find(name, storage)
    if as_json:
        _print_json({**summarise(study.ledger).as_json(), "all_trials": trials_as_json(study.ledger)})
    else:
        _console().print(render_status(study.ledger))


@app.command("list")
@storage_option
@json_option
@command
def list_command(storage: str | None, as_json: bool) -> None:
    """List the studies of a database."""
    from search.report import render_studies, summarise_all

    summaries = summarise_all(_url(storage))
    if as_json:
        _print_json([summary.as_json() for summary in summaries])
    else:
        _console().print(render_studies(summaries))


@app.command("best")
@study_option
@storage_option
@json_option
@command
def best(name: str, storage: str | None, as_json: bool) -> int:
    """Show the best trial's params and scores."""
    from search.report import best_as_json

    study = _find(name, storage)
    if not as_json:
        return _print_best(study, _console())
    found = best_as_json(study.ledger)
    _print_json(found)
    return 0 if found else 1


@app.command("diagnose")
@study_option
@click.option("--trial", type=click.IntRange(min=0), help="The trial's number.  [default: the best complete one]")
@storage_option
@click.option("--out", type=click.Path(path_type=Path), help="The report's folder.  [default: studies/reports/...]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="data.path or storage.* of this machine.")
@json_option
@command
def diagnose(
    name: str, trial: int | None, storage: str | None, out: Path | None, overrides: Sequence[str], as_json: bool
) -> None:
    """Show what a trial has learnt and where it fails; trains nothing. With --json a report only where --out says."""
    study = _find(name, storage)
    from search.diagnosis.evidence import read_evidence
    from search.diagnosis.findings import diagnose
    from search.diagnosis.report import render, report_folder, write_report

    found = diagnose(read_evidence(study, trial=trial, overrides=overrides))
    folder = out or (None if as_json else report_folder(found))
    page = write_report(found, folder) if folder else None
    if as_json:
        _print_json(found.as_json())
        return
    console = _console()
    console.print(render(found))
    console.print(f"\nreport: {page}", highlight=False, markup=False, soft_wrap=True)


@app.command("export")
@study_option
@click.option("--trial", type=click.IntRange(min=0), help="The trial's number.  [default: the best complete one]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The model's folder.")
@click.option(
    "--form",
    type=click.Choice(["ensemble", "refit", "fold"]),
    default="ensemble",
    show_default=True,
    help="All folds' models, one trained on all rows, or the best fold's.",
)
@storage_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="data.path or storage.* of this machine.")
@click.option("--force", is_flag=True, help="Replace an exported model.")
@click.option("--mlflow", is_flag=True, help="Make the folder an MLflow model as well.")
@click.option("--register", metavar="NAME", help="The same, registered under this name in the study's MLflow.")
@command
def export_command(
    name: str,
    trial: int | None,
    out: Path,
    form: Literal["ensemble", "refit", "fold"],
    storage: str | None,
    overrides: Sequence[str],
    force: bool,
    mlflow: bool,
    register: str | None,
) -> None:
    """Write a trial's model as a folder that predicts without the study."""
    study = _find(name, storage)
    from search.export import export

    mlflow = mlflow or register is not None
    description = export(study, out, form=form, trial=trial, overrides=overrides, force=force, mlflow=mlflow, say=_say)
    if register is not None:
        from search import mlflow_model
        from search.environment import Secrets, give_mlflow_its_token

        give_mlflow_its_token(Secrets.read())
        version = mlflow_model.register(study, out, description, name=register, overrides=overrides)
        click.echo(f"registered {register}, version {version}; search ui --study {name} shows it")
    click.echo(f"wrote {out}; next: search predict --model {out} data.csv --out predictions.csv")


@app.command("export-curves")
@study_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The curves' file, .npz.")
@click.option(
    "--test", type=click.Path(path_type=Path), help="Labelled rows that the study never saw: score all trials."
)
@storage_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="data.path or storage.* of this machine.")
@command
def export_curves_command(
    name: str, out: Path, test: Path | None, storage: str | None, overrides: Sequence[str]
) -> None:
    """Write the scores of all epochs of all folds as one file, to replay the race on it."""
    from search.curves import export_curves

    curves = export_curves(_find(name, storage), out, test=test, overrides=overrides, say=_say)
    trials, folds, epochs = curves.standing.shape
    click.echo(f"wrote {out}: {trials} trials, {folds} folds, at most {epochs} epochs")


@app.command("predict")
@model_option
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The CSV file of the predictions.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Copy a column of the data; repeat for more.")
@click.option("--top-k", type=click.IntRange(min=1), help="The likeliest classes, in place of all probabilities.")
@click.option("--no-probabilities", is_flag=True, help="Leave out the probability of each class.")
@click.option("--template", type=click.Path(path_type=Path), help="YAML that names the columns and codes of labels.")
@columns_option
@images_option
@batch_size_option
@command
def predict_command(
    folder: Path,
    data: Path,
    out: Path,
    keep: Sequence[str],
    top_k: int | None,
    no_probabilities: bool,
    template: Path | None,
    columns: Sequence[str],
    images: Path | None,
    batch_size: int | None,
) -> None:
    """Predict the rows of a file, or the images in a folder or zip file, with an exported model."""
    if template is not None and (keep or top_k or no_probabilities):
        raise click.UsageError("--template says all columns; expected no --keep, --top-k or --no-probabilities with it")
    from search.layout import read_template, usual_layout
    from search.predict import is_image_folder, load_model, parse_columns, predict

    renamed = parse_columns(columns)
    model = load_model(folder, batch_size=batch_size)
    if template is not None:
        layout = read_template(template, model.description)
    else:
        keep = keep or (("file",) if is_image_folder(model.description, data) else ())
        layout = usual_layout(model.description, keep=keep, top_k=top_k, probabilities=not no_probabilities)
    console = _console(stderr=True)
    num_rows = predict(model, data, out, layout=layout, columns=renamed, images=images, console=console)
    click.echo(f"wrote {out}: {num_rows:,} rows")


@app.command("evaluate")
@model_option
@click.argument("data", type=click.Path(path_type=Path))
@columns_option
@images_option
@batch_size_option
@json_option
@command
def evaluate_command(
    folder: Path, data: Path, columns: Sequence[str], images: Path | None, batch_size: int | None, as_json: bool
) -> None:
    """Score an exported model on a file with labels, beside what the study estimated."""
    from search.predict import evaluate, evaluation_as_json, load_model, parse_columns, render_evaluation

    renamed = parse_columns(columns)
    model = load_model(folder, batch_size=batch_size)
    evaluation = evaluate(model, data, columns=renamed, images=images, console=_console(stderr=True))
    if as_json:
        _print_json(evaluation_as_json(evaluation, model.description))
    else:
        _console().print(render_evaluation(evaluation, model.description))


@app.command("serve")
@click.option("--study", "name", metavar="NAME", help="Check that this study is there, and take its MLflow.")
@storage_option
@click.option("--mlflow", metavar="URI", help=f"MLflow's database.  [default: the study's, else {DEFAULT_MLFLOW}]")
@host_option
@click.option("--port", default=8080, show_default=True)
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM file: serve by HTTPS.")
@click.option("--key", type=click.Path(path_type=Path), help="PEM file of the certificate's key.")
@command
def serve_command(
    name: str | None,
    storage: str | None,
    mlflow: str | None,
    host: str,
    port: int,
    certificate: Path | None,
    key: Path | None,
) -> None:
    """Serve the Optuna dashboard and MLflow's UI at one address; for others to reach, with a password."""
    from search.environment import Secrets
    from search.serve import Address, mlflow_app, optuna_app, serve

    password = Secrets.read().serve_password
    address = Address(host=host, port=port, password=password, certificate=certificate, key=key)
    url = _find(name, storage).url if name else _url(storage)
    apps = {"": optuna_app(url), "/mlflow": mlflow_app(mlflow or _mlflow_uri(name, storage))}
    click.echo(f"Optuna dashboard: {address.url}/\nMLflow UI: {address.url}/mlflow/ (Ctrl-C ends both)")
    serve(apps, address)


@app.command("dashboard")
@click.option("--study", "name", metavar="NAME", help="Check that this study is there.")
@storage_option
@host_option
@click.option("--port", default=8080, show_default=True)
@command
def dashboard(name: str | None, storage: str | None, host: str, port: int) -> None:
    """Serve the Optuna dashboard alone."""
    from search.environment import Secrets
    from search.serve import Address, optuna_app, serve

    address = Address(host=host, port=port, password=Secrets.read().serve_password)
    app = optuna_app(_find(name, storage).url if name else _url(storage))
    click.echo(f"Optuna dashboard: {address.url}/ (Ctrl-C ends it)")
    serve({"": app}, address)


@app.command("ui")
@click.option("--study", "name", metavar="NAME", help="Take the tracking URI from this study.")
@storage_option
@host_option
@click.option("--port", default=5000, show_default=True)
@command
def ui(name: str | None, storage: str | None, host: str, port: int) -> None:
    """Serve MLflow's UI alone."""
    from search.environment import Secrets
    from search.serve import Address, mlflow_app, serve

    address = Address(host=host, port=port, password=Secrets.read().serve_password)
    app = mlflow_app(_mlflow_uri(name, storage))
    click.echo(f"MLflow UI: {address.url}/ (Ctrl-C ends it)")
    serve({"": app}, address)


@app.command("publish")
@study_option
@storage_option
@click.option("--rebuild", is_flag=True, help="Publish everything again: recreates a lost tracker.")
@command
def publish(name: str, storage: str | None, rebuild: bool) -> int:
    """Publish what the trackers have not seen yet."""
    from search.environment import Secrets
    from search.publish import publish_now

    return publish_now(_find(name, storage), secrets=Secrets.read(), rebuild=rebuild, say=_say)


@app.command("backup")
@study_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The backup's file; a new one.")
@storage_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="storage.artifacts of this machine.")
@command
def backup(name: str, out: Path, storage: str | None, overrides: Sequence[str]) -> None:
    """Write a study and all that is stored of it to one file; workers may go on meanwhile."""
    study = _find(name, storage)
    from search.backup import back_up

    click.echo(f"wrote {out}: {back_up(study, out, overrides=overrides)}")


@app.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@storage_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="data.path or storage.* of this machine.")
@command
def restore_command(file: Path, storage: str | None, overrides: Sequence[str]) -> None:
    """Bring a study back from a file of `search backup`, into a database of any kind."""
    from search.backup import restore

    restored = restore(file, url=_url(storage), overrides=overrides)
    click.echo(f"restored {restored}; next: search run or search worker --study {restored.study}")


@app.command("clean")
@click.option("--study", "name", metavar="NAME", help="One study alone.  [default: all of the database]")
@storage_option
@click.option("--yes", is_flag=True, help="Remove it without asking.")
@command
def clean(name: str | None, storage: str | None, yes: bool) -> None:
    """List what is stored and needed by no study any more, and remove it; what is being run is left alone."""
    from search.cleaning import find_waste

    found = list(find_waste(_url(storage), name=name, say=click.echo))
    for waste in found:
        click.echo(str(waste))
    if not found:
        click.echo("nothing to remove")
    elif yes or click.confirm("remove them?"):
        for waste in found:
            waste.remove()
        click.echo("removed")


@app.group("neptune")
def neptune() -> None:
    """Offline Neptune runs."""


@neptune.command("show")
@click.option("--directory", type=click.Path(path_type=Path), default=Path("studies/neptune"), show_default=True)
@json_option
@command
def neptune_show(directory: Path, as_json: bool) -> None:
    """Read offline runs back: what was recorded."""
    from search.offline import offline_as_json, render_offline

    if as_json:
        _print_json(offline_as_json(directory))
    else:
        _console().print(render_offline(directory))


@app.group("data")
def data() -> None:
    """Make data sets."""


@data.command("demo")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--rows", type=click.IntRange(min=1), default=900, show_default=True)
@click.option("--classes", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@command
def data_demo(out: Path, rows: int, classes: int, seed: int) -> None:
    """Build a real, long-tailed text set from the docstrings of installed packages."""
    from search.demo import build_demo

    click.echo(build_demo(out, rows=rows, classes=classes, seed=seed))


@data.command("extractive")
@click.argument("source", metavar="DOCUMENTS", type=click.Path(path_type=Path))
@click.option("--document", required=True, metavar="COLUMN", help="The text, or its list of sentences.")
@click.option("--summary", required=True, metavar="COLUMN", help="The reference summary, likewise.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The CSV file of the sentences.")
@click.option("--max-sentences", type=click.IntRange(min=1), help="The most sentences of a document with label 1.")
@command
def data_extractive(source: Path, document: str, summary: str, out: Path, max_sentences: int | None) -> None:
    """Make sentences to classify, in an extractive summary or not, of JSONL documents with reference summaries."""
    from search.extractive import build_extractive

    click.echo(build_extractive(source, out, document=document, summary=summary, max_sentences=max_sentences))
    click.echo("in the study file: data.text [previous, sentence, next] or sentence, data.group document")


def _url(storage: str | None) -> str:
    from search.environment import Secrets, with_password

    return with_password(storage or DEFAULT_STORAGE, Secrets.read())


def _find(name: str, storage: str | None) -> "OpenStudy":
    url = _url(storage)
    from search.study import find

    return find(name, url=url)


def _mlflow_uri(name: str | None, storage: str | None) -> str:
    from search.config import config_from_record

    return config_from_record(_find(name, storage).record.config).trackers.mlflow.uri if name else DEFAULT_MLFLOW


def _run(
    study: "OpenStudy", config: "StudyConfig", *, workers: int | None, memory_limit: int | None, secrets: "Secrets"
) -> int:
    from search.engines.local import num_gpus
    from search.run import Ending, run_study

    console, num_workers = _console(), workers or max(1, num_gpus())
    ending = run_study(
        study, config, num_workers=num_workers, memory_limit=memory_limit, secrets=secrets, console=console
    )
    _print_best(study, console)
    if ending is Ending.FINISHED:
        console.print(f"look at it: search serve --study {shlex.quote(study.record.name)}", highlight=False)
        return 0
    console.print("nothing is lost; the same command continues", highlight=False)
    return 0 if ending is Ending.TIMEOUT else 130


def _print_best(study: "OpenStudy", console: "Console") -> int:
    from search.report import best_as_json, render_best

    console.print(render_best(study.ledger))
    return 0 if best_as_json(study.ledger) else 1


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def _say(line: str, *, err: bool = False) -> None:
    from search.terminal import visible

    click.echo(visible(line), err=err)


def _console(*, stderr: bool = False) -> "Console":
    from search.terminal import make_console

    return make_console(stderr=stderr)
