"""Commands before a study: a study file for a data file, and what a study will take."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fold_search.search.commands.answers import new_console, new_steps, print_json, say
from fold_search.search.commands.completing import complete_setting
from fold_search.search.commands.options import encoding_option, images_option, json_option, quotes_option

if TYPE_CHECKING:
    from rich.console import Console

    from fold_search.objectives.data.sources import Quotes
    from fold_search.search.drafting.measured import Measured
    from fold_search.search.drafting.plan import Plan
    from fold_search.search.drafting.survey import Survey

MOST_SECONDS = 10 * 365 * 86_400.0


def _seconds(text: str | float) -> float:
    from fold_search.search.study.sections import parse_time

    try:
        seconds = parse_time(text) or 0.0
    except ValueError:
        raise click.BadParameter(f"found {text!r}, expected a time such as 30m, 2h or 1h30m") from None
    if seconds > MOST_SECONDS:
        raise click.BadParameter(f"found {text!r}, expected at most ten years")
    return seconds


def _time(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    return None if text is None else _seconds(text)


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
    from fold_search.search.errors import ConfigError

    if out.exists() and not force:  # before the imports, which take seconds
        raise ConfigError(f"{out}: exists already; --force overwrites it")
    from fold_search.search.drafting.columns import find_columns
    from fold_search.search.drafting.encoders import named_from
    from fold_search.search.drafting.plan import Plan
    from fold_search.search.drafting.survey import render_table, survey
    from fold_search.search.drafting.template import write_study_file
    from fold_search.search.study.config import load_config
    from fold_search.search.study.kept_forecast import keep_forecast

    console = new_console()
    spec = find_columns(
        data,
        label=label,
        text=text,
        image=image,
        show=new_console(stderr=True).print,
        images=images,
        task=task,
        encoding=encoding,
        quotes=quotes or "auto",
    )
    found = survey(spec)
    console.print(render_table(found))
    if probe:
        plan = _plan(found, console, out=out, seconds=seconds, preset=preset, encoder=encoder)
    else:
        plan = Plan(found=found, encoder=encoder and named_from(encoder, out.parent), seconds=seconds)
    write_study_file(plan, out, full=full, overwrite=force)
    if plan.fit:
        with contextlib.suppress(OSError):  # it is only for comparison
            keep_forecast(load_config(out), plan.fit.summary())
    console.print(f"wrote {out}; next: search run --study NAME --config {out}", highlight=False)


def _plan(
    found: "Survey", console: "Console", *, out: Path, seconds: float | None, preset: str, encoder: str | None
) -> "Plan":
    """The plan for the data: fitted to this machine and the time, where the encoder can be tried here."""
    from fold_search.search.drafting.advice import TIMES_AS_LONG, more_time, reason, render_comparison, warnings
    from fold_search.search.drafting.encoders import named_from
    from fold_search.search.drafting.fitting import default_seconds, fit
    from fold_search.search.drafting.plan import Plan

    name, measured = _measured(found, console, out=out, encoder=encoder)
    plan = Plan(found=found, encoder=named_from(name, out.parent), seconds=seconds)
    if measured is None:
        return plan
    given = seconds or _ask_time(default_seconds(measured))
    fitted = fit(measured, plan.load, seconds=given, preset=preset)
    longer = (given * factor for factor in TIMES_AS_LONG)
    ways = ((time, fit(measured, plan.load, seconds=time, preset=preset).way) for time in longer)
    console.print(render_comparison(fitted))
    lines = [reason(fitted), more_time(ways, fitted.way)]
    for line in (*filter(None, lines), *warnings(measured, encoder=name, max_length=fitted.shape.max_length)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return replace(plan, fit=fitted, seconds=given)


def _ask_time(usual: float) -> float:
    """The time that the search may take: asked for at a terminal, else the usual one."""
    from fold_search.search.reporting.times import in_words

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        say(f"note: --time is not given; the study is made for {in_words(usual)}")
        return usual
    answer = click.prompt("How long may the search take", default=in_words(usual), value_proc=_seconds)
    return float(answer)


def _measured(found: "Survey", console: "Console", *, out: Path, encoder: str | None) -> "tuple[str, Measured | None]":
    """Return an encoder that can be used here, as it is named here, and what was measured of it."""
    from fold_search.search.drafting.encoders import proposed_encoder, write_architecture
    from fold_search.search.drafting.measured import Wanted
    from fold_search.search.drafting.measuring import NotMeasured, try_encoder
    from fold_search.search.drafting.plan import Plan

    spec, name = found.spec, encoder or proposed_encoder(found.spec)[0]
    wanted = Wanted(image_size=Plan(found=found).image_size if spec.kind == "image" else 0)
    why = ""
    with new_steps() as steps:
        steps.step("timing the encoder on this machine, up to half a minute")
        try:
            return name, try_encoder(spec, name, wanted)
        except NotMeasured as error:
            why = str(error)
        if encoder is None and spec.kind == "image":
            console.print(f"note: {why}", highlight=False, markup=False, soft_wrap=True)
            console.print("note: a small network that starts from random weights is proposed instead", highlight=False)
            name = write_architecture(out)
            try:
                return name, try_encoder(spec, name, wanted)
            except NotMeasured as error:
                why = str(error)
    line = f"note: nothing was measured, so the study may not fit the time: {why}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    return name, None


@click.command("plan")
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="The study file.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes.  [default: one per GPU, or 1 without a GPU]"
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_setting,
    help="Override one key of the study file; repeat for more.",
)
@json_option
def plan(file: Path, workers: int | None, overrides: Sequence[str], as_json: bool) -> None:
    """Say what a study will take on this machine: time, device hours, money, memory, disk.

    Trains a few steps and nothing more. When the study has ended, `search status` compares this with what it took.
    """
    from fold_search.objectives.data.dataset import read_dataset
    from fold_search.search.drafting.advice import render_outlook
    from fold_search.search.drafting.measuring import NotMeasured
    from fold_search.search.drafting.outlook import look_ahead
    from fold_search.search.errors import ConfigError
    from fold_search.search.running.engines.local import num_gpus
    from fold_search.search.study.checks import check_encoders
    from fold_search.search.study.config import load_config
    from fold_search.search.study.disk import check_disk
    from fold_search.search.study.kept_forecast import keep_forecast

    config, console = load_config(file, overrides), new_console()
    num_workers = workers or max(1, num_gpus())
    with new_steps() as steps:
        steps.step("reading the rows")
        dataset = read_dataset(config.data)
        disk = check_disk(config, dataset, encoders=check_encoders(config), num_workers=num_workers)
        try:
            outlook = look_ahead(config, dataset, workers=num_workers, step=steps.step)
        except NotMeasured as error:
            raise ConfigError(f"{file}: nothing could be timed: {error}") from None
    if as_json:
        print_json({**outlook.as_json(price=config.budget.price_per_hour), "disk": disk})
    else:
        console.print(render_outlook(outlook, price=config.budget.price_per_hour, disk=disk))
    with contextlib.suppress(OSError):  # it is only for comparison
        keep_forecast(config, outlook.summary())
