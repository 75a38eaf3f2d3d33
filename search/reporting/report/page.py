"""The report as one HTML file: the parts in the order of reading, and the page around them."""

import importlib.metadata
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files

import yaml
from jinja2 import Environment, StrictUndefined

from fold_search.search.racing.importance import FEWEST_TRIALS, Importance
from fold_search.search.reporting.diagnosis.pictures import pictures
from fold_search.search.reporting.diagnosis.sections import Table, sections
from fold_search.search.reporting.lines import counted, show, show_params
from fold_search.search.reporting.report.answer import answer, moment, paper, searched
from fold_search.search.reporting.report.charts import MOST_CURVES, charts, has_history, has_scores
from fold_search.search.reporting.report.facts import Facts
from fold_search.search.reporting.report.importance_charts import effect_charts
from fold_search.search.reporting.report.matrix_chart import num_in_matrix
from fold_search.search.reporting.report.parts import Part, pairs, short
from fold_search.search.reporting.report.template import SCRIPT, STYLE, TEMPLATE
from fold_search.search.reporting.times import duration
from fold_search.search.study.config import to_record
from fold_search.search.study.wording import printable, without_password
from fold_search.search.terminal import visible
from fold_search.storage.records import FoldRunState, TrialRecord

MOST_ROWS = 1000  # of a table
MOST_IN_DIAGNOSIS = 60  # rows of one of its tables
LONGEST_WHY = 120  # letters of a reason in the table of trials
OF_THIS_MACHINE = {"storage", "trackers", "artifacts"}  # sections of the study file that are nobody else's business
_NONE = "-"


def render(facts: Facts) -> str:
    """Return the page. All text is escaped; control characters and passwords are left out."""
    # What the template marks as safe is the style, the scripts, and charts as `_script` has escaped them.
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown)
    environment.filters["short"] = short
    drawn = charts(facts)
    plotly = files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8") if drawn else ""
    shown = pictures(facts.diagnosis) if facts.diagnosis else {}
    return environment.from_string(TEMPLATE).render(
        title=f"Study {printable(facts.record.name)}",
        parts=list(parts(facts)),
        charts={name: _script(chart) for name, chart in drawn.items()},
        pictures={name: b64encode(png).decode() for name, png in shown.items()},
        linked={str(trial.number) for trial in facts.chosen},
        most_rows=MOST_ROWS,
        style=STYLE,
        script=SCRIPT,
        plotly=plotly,
        footer=f"Made by fold-search {importlib.metadata.version('fold-search')} from its record of the study. "
        "The file needs no network.",
    )


def _shown(value: object) -> object:
    return visible(without_password(value)) if type(value) is str else value


def _script(value: object) -> str:
    """JSON that ends no script, whatever it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def parts(facts: Facts) -> Iterator[Part]:
    """The parts of the page in the order of reading."""
    first = answer(facts)
    yield replace(first, parts=[Part(anchor="paper", title="For a paper", quote=paper(facts))] if paper(facts) else [])
    yield searched(facts)
    if has_history(facts):
        yield Part(
            anchor="history",
            title="History",
            sentences=["Each trial when it ended. The line is the best score of a complete trial so far."],
            charts=["history"],
        )
    if facts.config.space:
        yield _importance(facts)
    if has_scores(facts):
        yield _matrix(facts)
        yield Part(
            anchor="fold-curves",
            title="The best trials, epoch by epoch",
            sentences=[f"Up to {MOST_CURVES} trials. Thin: each fold. Thick: their mean. A click on a name hides it."],
            charts=["curves"],
        )
    if facts.trials:
        yield Part(anchor="trials", title="All trials", tables=[_trials(facts)], sentences=_how_to_read(facts))
    yield _diagnosis(facts)
    if facts.chosen:
        title = "Trial by trial" if len(facts.chosen) == len(facts.trials) else f"The best {len(facts.chosen)} trials"
        yield Part(anchor="by-trial", title=title, parts=[_trial(facts, trial) for trial in facts.chosen])
    yield _origin(facts)


def _matrix(facts: Facts) -> Part:
    num = num_in_matrix(facts)
    sentences = [
        "One row for each trial, the best at the top; one cell for each epoch of each fold. The colour is the score "
        "at the best epoch so far: yellow is good, dark is bad, and nothing means not trained. Point at a cell or at a "
        "mark to read why a trial was stopped or paused. Drag to enlarge, double-click to go back.",
    ]
    if num < len(facts.trials):
        sentences.append(f"The {len(facts.trials) - num} trials that rank lowest are left out.")
    return Part(anchor="epochs", title="All trials, epoch by epoch", sentences=sentences, charts=["matrix"])


def _how_to_read(facts: Facts) -> list[str]:
    sentences = [
        "Expected: the mean over all folds that the race expected of a trial that is not complete. Chance: its chance "
        "to be the best, when it was last judged; why it ended or is paused. A click on a column sorts by it."
    ]
    if len(facts.trials) > MOST_ROWS:
        sentences.append("search report --csv FOLDER writes all trials.")
    return sentences


def _trials(facts: Facts) -> Table:
    names = list(facts.config.space)
    rows = [
        (
            str(trial.number),
            facts.states[trial.number],
            _NONE if trial.score is None else f"{trial.score:.4f} ± {trial.std or 0.0:.4f}",
            _expected(facts, trial),
            f"{sum(run.num_epochs for run in facts.runs[trial.number])}",
            _NONE if trial.chance is None else f"{trial.chance:.2g}",
            short(_why(facts, trial), LONGEST_WHY),
            *(show(trial.params[name]) if name in trial.params else _NONE for name in names),
        )
        for trial in facts.trials
    ]
    columns = ("trial", "state", facts.record.metric, "expected", "epochs", "chance", "why", *names)
    return Table(columns=columns, rows=rows, words=("state", "why", *_words(facts)))


def _why(facts: Facts, trial: TrialRecord) -> str:
    """Why a trial ended, or why it is paused."""
    paused = (run.reason for run in facts.runs[trial.number] if run.state is FoldRunState.PAUSED and run.reason)
    return trial.reason or next(paused, "")


def _words(facts: Facts) -> list[str]:
    """The params whose values are words."""
    return [name for name, domain in facts.config.space.items() if any(isinstance(v, str) for v in domain.ends())]


def _expected(facts: Facts, trial: TrialRecord) -> str:
    found = facts.expected.get(trial.number) if trial.score is None else None
    return _NONE if found is None else f"{found:.4f}"


def _trial(facts: Facts, trial: TrialRecord) -> Part:
    score = f": {trial.score:.4f} ± {trial.std or 0.0:.4f}" if trial.score is not None else ""
    runs = facts.runs[trial.number]
    rows = [
        (
            str(run.fold),
            run.state.value if run.state.value != "leased" else "running",
            _NONE if run.score is None else f"{run.score:.4f}",
            _NONE if run.best_epoch is None else str(run.best_epoch),
            str(run.num_epochs),
            duration(run.seconds),
            run.reason or "",
        )
        for run in runs
    ]
    columns = ("fold", "state", facts.record.metric, "best epoch", "epochs", "time", "why")
    sentences = [show_params({name: short(str(show(value))) for name, value in trial.params.items()})]
    sentences += [f"{trial.reason}."] if trial.reason else []
    sentences += ["An audit: the race would have stopped it."] if trial.audited else []
    return Part(
        anchor=f"trial-{trial.number}",
        title=f"Trial {trial.number} ({facts.states[trial.number]}){score}",
        sentences=sentences,
        tables=[Table(columns=columns, rows=rows, words=("state", "why"))],
        folded=True,
    )


def _importance(facts: Facts) -> Part:
    title, found = "Which parameters matter", facts.importance
    if found is None:
        reason = f"Not known yet: that needs at least {FEWEST_TRIALS} trials of which something is trained."
        return Part(anchor="importance", title=title, sentences=[reason])
    table = Table(
        columns=("param", "share of the variance", "90% interval", "alone"),
        rows=[
            (share.name, f"{share.share:.0%}", f"{share.low:.0%} to {share.high:.0%}", f"{share.alone:.0%}")
            for share in found.shares
        ],
        words=("param",),
    )
    effects = Part(
        anchor="effects",
        title="What each value does",
        sentences=[
            f"The {facts.record.metric} that is expected at each value, on average over all values of the other "
            "parameters, with its 90% interval. The most important parameters first."
        ],
        charts=effect_charts(found),
    )
    return Part(
        anchor="importance",
        title=title,
        sentences=list(_read_importance(found)),
        tables=[table],
        charts=["importance"],
        parts=[effects],
    )


def _read_importance(found: Importance) -> Iterator[str]:
    yield (
        "The share of the differences between scores that a parameter causes, over the whole range that was searched. "
        "What several parameters cause together counts for each of them, so the shares may add up to more than 100%; "
        "alone is what a parameter causes whatever the others are."
    )
    yield (
        f"From the race's model of {counted(found.num_trials, 'trial')}; of these {found.num_partial} were stopped "
        "or are not complete. Importance that is computed on complete trials alone misleads: the race stops trials "
        "with bad values, and then those values are not there to compare with."
    )
    if found.explained > 0:
        yield f"From the params alone the model predicts {found.explained:.0%} of the differences between trials."
    else:
        yield "Read it as a guess: from the params alone the model cannot predict how good a trial is."


def _diagnosis(facts: Facts) -> Part:
    found = facts.diagnosis
    if found is None:
        title = "Where the model is right and wrong"
        return Part(anchor="model", title=title, sentences=[f"Not shown: {facts.missing}."])
    inner = [
        Part(
            anchor=f"model-{index}",
            title=section.title,
            sentences=[*section.sentences, *_left_out(section.tables)],
            tables=[replace(table, rows=table.rows[:MOST_IN_DIAGNOSIS]) for table in section.tables],
            picture=section.picture,
        )
        for index, section in enumerate(sections(found))
    ]
    rows = f"{found.num_rows:,} rows, each predicted by the fold that did not train on it."
    return Part(
        anchor="model", title=f"Where trial {found.trial} is right and wrong", sentences=[rows], parts=_in_order(inner)
    )


def _left_out(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        if len(table.rows) > MOST_IN_DIAGNOSIS:
            yield f"The first {MOST_IN_DIAGNOSIS} of {len(table.rows)}; search diagnose writes all."


def _in_order(inner: Sequence[Part]) -> list[Part]:
    """What is told of classes or numbers first; the rest as it was."""
    first = ("Class", "Most confused", "Residuals", "Rows with")
    return sorted(inner, key=lambda part: not part.title.startswith(first))


def _origin(facts: Facts) -> Part:
    record, made = facts.record, facts.record.provenance
    config = {name: keys for name, keys in to_record(facts.config).items() if name not in OF_THIS_MACHINE}
    table = pairs(
        begun=moment(record.created_at),
        python=made.get("python"),
        platform=made.get("platform"),
        git_commit=made.get("git_commit"),
        packages=_packages(made.get("packages", {})),
        **{f"fingerprint_of_the_{name}": print_ for name, print_ in record.fingerprints.items()},
    )
    study_file = Part(
        anchor="study-file",
        title="Study file",
        text=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        folded=True,
    )
    return Part(anchor="origin", title="How to make it again", tables=[table], parts=[study_file])


def _packages(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
