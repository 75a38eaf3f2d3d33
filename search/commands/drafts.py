"""Commands before a study: a study file for a data file, and what a study will take."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fold_search.search.commands.answers import new_console
from fold_search.search.commands.options import encoding_option, images_option, quotes_option

if TYPE_CHECKING:
    from rich.console import Console

    from fold_search.objectives.data.sources import Quotes
    from fold_search.search.drafting.plan import Plan
    from fold_search.search.drafting.survey import Survey


def _time(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    from fold_search.search.study.sections import parse_time

    try:
        return parse_time(text)
    except ValueError:
        raise click.BadParameter(f"found {text!r}, expected a time such as 30m, 2h or 1h30m") from None


@click.command("init")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--label", metavar="COLUMN", help="The label column: the class of a row, or a number with --task regression."
)
@click.option("--text", "text", multiple=True, metavar="COLUMN", help="A text column; repeat to join several.")
@click.option("--image", metavar="COLUMN", help="The column of image paths, instead of --text.")
@images_option
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    default="classification",
    show_default=True,
    help="Whether the label is a class or a number.",
)
@encoding_option
@quotes_option
@click.option(
    "--time",
    "seconds",
    metavar="TIME",
    callback=_time,
    help="The time that the search may take, such as 30m or 8h.  [default: 8h on a GPU, 30m without]",
)
@click.option(
    "--preset",
    type=click.Choice(["quick", "balanced", "thorough"]),
    default="balanced",
    show_default=True,
    help="quick: done in a third of the time. thorough: more is trained of the encoder, in fewer trials.",
)
@click.option("--encoder", metavar="NAME", help="The pretrained model: a hub name or a folder.")
@click.option("--probe/--no-probe", default=True, help="Whether to time the encoder on this machine (30 seconds).")
@click.option("--full", is_flag=True, help="Write every key with its meaning, not only those that were chosen.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("study.yaml"),
    show_default=True,
    help="The study file to write.",
)
@click.option("--force", is_flag=True, help="Overwrite the study file if it exists.")
def init(
    data: Path,
    label: str | None,
    text: tuple[str, ...],
    image: str | None,
    images: Path | None,
    task: Literal["classification", "regression"],
    encoding: str | None,
    quotes: "Quotes | None",
    seconds: float | None,
    preset: str,
    encoder: str | None,
    probe: bool,
    full: bool,
    out: Path,
    force: bool,
) -> None:
    """Look at a data file and write a study file that fits this machine and your time.

    DATA is a CSV, TSV, JSONL or Parquet file; then --label and --text (or --image) are needed. Or DATA is a folder or
    zip file with one folder of images per class; then no option is needed. A sentence with two marked entities
    (columns sentence, subject, subject_start and so on) needs --label only.
    """
    from fold_search.search.drafting.columns import find_columns
    from fold_search.search.drafting.survey import render_table, survey
    from fold_search.search.drafting.template import refuse_existing, write_study_file

    if not force:
        refuse_existing(out)
    console = new_console()
    spec = find_columns(
        data,
        label=label,
        text=text,
        image=image,
        images=images,
        task=task,
        encoding=encoding,
        quotes=quotes or "auto",
    )
    found = survey(spec)
    console.print(render_table(found))
    plan = _plan(found, console, out=out, seconds=seconds, preset=preset, encoder=encoder, probe=probe)
    write_study_file(plan, out, full=full, overwrite=force)
    console.print(f"wrote {out}; next: search run --study NAME --config {out}", highlight=False)


def _plan(
    found: "Survey",
    console: "Console",
    *,
    out: Path,
    seconds: float | None,
    preset: str,
    encoder: str | None,
    probe: bool,
) -> "Plan":
    """The plan for the data: fitted to this machine and the time, where the encoder can be tried here."""
    from fold_search.search.drafting.advice import more_time, reason, render_comparison, warnings
    from fold_search.search.drafting.encoders import proposed_encoder, write_architecture
    from fold_search.search.drafting.fitting import default_seconds, fit
    from fold_search.search.drafting.measuring import NotMeasured, try_encoder
    from fold_search.search.drafting.plan import Plan

    plan, name = Plan(found=found, encoder=encoder), encoder or proposed_encoder(found.spec)[0]
    if not probe:
        return plan
    size = plan.image_size if found.spec.kind == "image" else 0

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with console.status("timing the encoder on this machine, up to half a minute ..."):
        try:
            measured = try_encoder(found.spec, name, image_size=size)
        except NotMeasured as error:
            if encoder is not None or found.spec.kind != "image":
                say(f"note: nothing was measured: {error}. Another encoder can be named with --encoder.")
                return plan
            say(f"note: {error}. A small network that starts from random weights is proposed instead.")
            name = write_architecture(out)
            try:
                measured = try_encoder(found.spec, f"config:{out.parent / 'encoder.json'}", image_size=size)
            except NotMeasured as error:
                say(f"note: nothing was measured: {error}.")
                return Plan(found=found, encoder=name)
    fitted = fit(
        measured,
        num_rows=found.num_rows,
        most_folds=plan.most_folds,
        seconds=seconds or default_seconds(measured),
        preset=preset,
        embeds=plan.embeds,
    )
    console.print(render_comparison(fitted))
    lines = [reason(fitted), more_time(fitted), *warnings(measured, encoder=name, max_length=fitted.shape.max_length)]
    for line in filter(None, lines):
        say(line)
    return Plan(found=found, encoder=None if encoder is None and name.startswith("package:") else name, fit=fitted)
