"""Commands that show a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fold_search.search.commands.answers import keep_showing, new_console, print_best, print_csv, print_json, say
from fold_search.search.commands.options import (
    database_url,
    find_study,
    json_option,
    machine_option,
    storage_option,
    study_option,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

NUMBER_LINES = 15  # of a status beside its trials


@click.command("status")
@study_option
@storage_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print all trials as CSV: scores, reasons and params.")
@click.option("--reasons", is_flag=True, help="Show the reason of each trial in full.")
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
def status(name: str, storage: str | None, as_json: bool, as_csv: bool, reasons: bool, watch: bool) -> None:
    """Show the trials, fold runs and best score of a study.

    p is the estimated chance of a trial to be the best one, when it was last judged.
    """
    from fold_search.search.errors import ConfigError
    from fold_search.search.reporting.lines import how_to_continue
    from fold_search.search.reporting.summary import summarise, trials_as_json, trials_as_rows
    from fold_search.search.reporting.tables import render_status

    if as_json + as_csv + watch > 1:
        raise ConfigError("--json, --csv and --watch: found more than one of them, expected one")
    study = find_study(name, storage)
    summary = summarise(study.ledger)
    if as_json:
        print_json({**summary.as_json(), "all_trials": trials_as_json(study.ledger)})
        return
    if as_csv:
        print_csv(trials_as_rows(study.ledger))
        return
    console = new_console()

    def render() -> "RenderableType":
        most = max(3, console.height - NUMBER_LINES) if watch and console.is_terminal else 20
        return render_status(study.ledger, width=console.width, most=most, reasons=reasons)

    if watch:
        keep_showing(render, console)
        return
    console.print(render())
    for line in how_to_continue([summary], storage=storage):
        say(line)


@click.command("list")
@storage_option
@json_option
def list_studies(storage: str | None, as_json: bool) -> None:
    """List the studies of a database."""
    from fold_search.search.reporting.lines import how_to_continue
    from fold_search.search.reporting.summary import summarise_all
    from fold_search.search.reporting.tables import render_studies

    summaries = summarise_all(database_url(storage))
    if as_json:
        print_json([summary.as_json() for summary in summaries])
        return
    new_console().print(render_studies(summaries))
    for line in how_to_continue(summaries, storage=storage):
        say(line)


@click.command("best")
@study_option
@storage_option
@json_option
def best(name: str, storage: str | None, as_json: bool) -> int:
    """Show the params and scores of the best trial."""
    from fold_search.search.reporting.summary import best_as_json

    study = find_study(name, storage)
    if not as_json:
        return print_best(study, new_console())
    found = best_as_json(study.ledger)
    print_json(found)
    return 0 if found else 1


@click.command("diagnose")
@study_option
@click.option("--trial", type=click.IntRange(min=0), help="The trial's number.  [default: the best complete trial]")
@storage_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="The folder to write the report to.  [default: studies/reports/...]"
)
@machine_option
@json_option
def diagnose(
    name: str, trial: int | None, storage: str | None, out: Path | None, overrides: Sequence[str], as_json: bool
) -> None:
    """Show what a trial has learnt and where it fails.

    Does not train. With --json, writes a report only if --out is given.
    """
    study = find_study(name, storage)
    from fold_search.search.reporting.diagnosis.evidence import read_evidence
    from fold_search.search.reporting.diagnosis.findings import diagnose
    from fold_search.search.reporting.diagnosis.report import render, report_folder, write_report

    found = diagnose(read_evidence(study, trial=trial, overrides=overrides))
    folder = out or (None if as_json else report_folder(found))
    page = write_report(found, folder) if folder else None
    if as_json:
        print_json(found.as_json())
        return
    console = new_console()
    console.print(render(found))
    console.print(f"\nreport: {page}", highlight=False, markup=False, soft_wrap=True)


@click.command("report")
@study_option
@storage_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="The HTML file to write.  [default: studies/reports/NAME.html]"
)
@click.option(
    "--csv",
    "csv_folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write trials, folds and epochs as CSV.",
)
@click.option("--latex", "as_latex", is_flag=True, help="Print the best trials and the baselines as a LaTeX table.")
@machine_option
@json_option
def report(
    name: str,
    storage: str | None,
    out: Path | None,
    csv_folder: Path | None,
    as_latex: bool,
    overrides: Sequence[str],
    as_json: bool,
) -> None:
    """Write one page about the whole study, to read and to send.

    The page needs no network. With --csv, --latex or --json it is written only if --out is given.
    """
    from fold_search.search.errors import ConfigError, ExitCode, RunFailed

    if as_latex and as_json:
        raise ConfigError("--latex and --json: found both, expected one")
    study = find_study(name, storage)
    from fold_search.search.reporting.report import write
    from fold_search.search.reporting.report.comparison import latex
    from fold_search.search.reporting.report.facts import gather

    if out is None and not (csv_folder or as_latex or as_json):
        out = write.report_file(name)
    if out is not None:
        write.check_out(out)
    written = write.write_csv(study, csv_folder) if csv_folder else []
    facts = gather(study, overrides=overrides)
    if as_latex and facts.summary.best is None:
        raise RunFailed(f"--latex: no trial of study {name!r} is complete, expected one", ExitCode.NONE_COMPLETE)
    if out is not None:
        write.write_page(facts, out)
        written.append(out)
    if as_json:
        print_json(write.as_json(facts, study))
    elif as_latex:
        say(latex(facts.summary, facts.compared))
    for path in written:
        say(f"wrote {path}", err=as_json or as_latex)


@click.group("neptune")
def neptune() -> None:
    """Look at offline Neptune runs."""


@neptune.command("show")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("studies/neptune"),
    show_default=True,
    help="Folder of the offline runs.",
)
@json_option
def neptune_show(directory: Path, as_json: bool) -> None:
    """Show what offline runs have recorded."""
    from fold_search.search.reporting.offline import offline_as_json, render_offline

    if as_json:
        print_json(offline_as_json(directory))
    else:
        new_console().print(render_offline(directory))
