"""What a reader wants first: which trial is best, how good that is, and what was searched; in words and tables."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fold_search.search.racing.audits import race_line
from fold_search.search.reporting.baselines import score_words, strongest, verdict_line
from fold_search.search.reporting.diagnosis.sections import Table
from fold_search.search.reporting.lines import counted, counts_line, leak_line, show, ties_line
from fold_search.search.reporting.report.comparison import Compared, p_words
from fold_search.search.reporting.report.facts import Facts
from fold_search.search.reporting.report.parts import Part, pairs
from fold_search.search.reporting.summary import Best
from fold_search.search.reporting.times import duration
from fold_search.search.study.parameters import Choices, Domain
from fold_search.search.study.spending import Spending, in_hours
from fold_search.search.study.wording import printable
from fold_search.storage.records import BaselineRecord, StudyState

_SAMPLERS = {"tpe": "TPE (Optuna)", "random": "random", "grid": "a grid"}
_RULES = {"paired": "the paired race", "early_stopping_cv": "early stopping CV", "none": "no race"}


def headline(facts: Facts) -> str:
    """The answer in one line."""
    best, metric = facts.summary.best, facts.record.metric
    if best is not None:
        of = counted(len(facts.trials), "trial")
        so_far = "" if facts.summary.state == StudyState.FINISHED else " so far"
        return f"Trial {best.trial} is the best of {of}{so_far}: {metric} {best.score:.4f} ± {best.std:.4f}"
    found = facts.provisional
    if found is None:
        return "There is no score yet"
    mean = sum(found.scores) / len(found.scores)
    return f"No trial is complete yet; trial {found.trial.number} is the most promising: {metric} {mean:.4f} so far"


def answer(facts: Facts) -> Part:
    """The best trial, what its score is worth, and its params."""
    tables = [*_comparison(facts.compared, facts.record.metric, facts.summary.baselines), _params(facts)]
    return Part(
        anchor="answer",
        title=headline(facts),
        sentences=tuple(_sentences(facts)),
        tables=[table for table in tables if table.rows],
    )


def _sentences(facts: Facts) -> Iterator[str]:
    summary, best = facts.summary, facts.summary.best
    if summary.direction == "minimize":
        yield f"A smaller {summary.metric} is better."
    if best is None:
        yield from [f"{facts.provisional.reason.capitalize()}."] if facts.provisional else []
        yield from [f"Baseline: {found.label} {score_words(found)}." for found in summary.baselines]
        return
    if verdict := verdict_line(summary.baselines, best.fold_scores, summary.direction):
        yield f"Beside simple models: {verdict}."
    folds = len(best.fold_scores)
    pooled = "" if best.pooled is None else f" All rows scored together (pooled): {best.pooled:.4f}."
    yield (
        f"The score is the mean over {folds} folds; ± is the standard deviation between them. Each row was "
        f"predicted by the model that did not train on it, at the best epoch of its fold.{pooled}"
    )
    yield f"{_capital(ties_line(facts.ties))}."
    yield (
        "The score is a little too good, because the trial was chosen by it. Score the exported model once on rows "
        "that no search has seen (search evaluate)."
    )
    yield f"{_capital(leak_line(list(facts.leaks)))}."
    seconds = sum(run.seconds for run in facts.runs[best.trial])
    yield (
        f"All its folds together trained for {duration(seconds)}. To run it: the exported model has {folds} networks, "
        "one from each fold, and every row passes through all of them. With --form refit it is one network, which is "
        "trained on all rows."
    )


def _comparison(compared: Sequence[Compared], metric: str, baselines: Sequence[BaselineRecord]) -> Iterator[Table]:
    rows = [
        (
            row.name,
            f"{row.score:.4f} ± {row.std:.4f}",
            "" if row.pooled is None else f"{row.pooled:.4f}",
            _against_best(row),
        )
        for row in compared
    ]
    rows += [(found.label, score_words(found), "", "") for found in baselines if found.score is None and compared]
    against = "against the best trial"
    yield Table(columns=("", metric, "pooled", against), rows=rows, words=("", against))


def _against_best(row: Compared) -> str:
    if row.difference is None:
        return ""
    size, how = f"{abs(row.difference):.4f}", "worse" if row.difference >= 0 else "better"
    return f"{how} by {size}" if row.differs else f"{size} {how}, within the noise"


def _params(facts: Facts) -> Table:
    best: Best | None = facts.summary.best
    params = best.params if best else facts.provisional.trial.params if facts.provisional else {}
    rows = [
        (name, show(params[name]) if name in params else "not used", domain_words(domain))
        for name, domain in facts.config.space.items()
    ]
    number = best.trial if best else facts.provisional.trial.number if facts.provisional else None
    value = "value" if number is None else f"of trial {number}"
    return Table(columns=("param", value, "searched"), rows=rows, words=("param", value, "searched"))


def domain_words(domain: Domain) -> str:
    """A range or choices in words."""
    if isinstance(domain, Choices):
        return ", ".join(map(str, domain.choices))
    step = "" if domain.step is None else f" in steps of {show(domain.step)}"
    return f"{show(domain.low)} to {show(domain.high)}{step}{', on a log scale' if domain.log else ''}"


def paper(facts: Facts) -> str:
    """Sentences to put into a paper; nothing while no trial is complete."""
    best, summary, config = facts.summary.best, facts.summary, facts.config
    if best is None:
        return ""
    folds = len(best.fold_scores)
    made = f"{folds}-fold {'stratified ' if config.folds.stratified else ''}cross-validation"
    what = (
        f"We searched {', '.join(config.space) or 'no hyperparameters'} over {counted(len(facts.trials), 'trial')} "
        f"proposed by {_SAMPLERS[config.study.sampler]}, each scored by {made} on {_rows(facts)}"
    )
    stopped = f"; {counted(summary.race.stops, 'trial')} of them were stopped early" if summary.race.stops else ""
    found = (
        f"The best trial reaches a {summary.metric} of {best.score:.3f} ± {best.std:.3f} (mean and standard deviation "
        f"over the folds, each at its best epoch){_against(facts)}"
    )
    tied = f"{counted(len(facts.ties), 'other trial')} cannot be told from it by the noise between the folds"
    return f"{what}{stopped}. {found}. {tied}." if facts.ties else f"{what}{stopped}. {found}."


def _against(facts: Facts) -> str:
    """The strongest baseline beside the best trial."""
    baseline = strongest(facts.summary.baselines, facts.summary.direction)
    row = next((row for row in facts.compared if baseline and row.name == baseline.label), None)
    if row is None or row.p_value is None:
        return ""
    p_value = p_words(row.p_value) if row.p_value < 0.001 else f"= {row.p_value:.3f}"
    return (
        f", against {row.score:.3f} ± {row.std:.3f} of the baseline {row.name} on the same folds (two-sided corrected "
        f"resampled t-test, Nadeau and Bengio 2003: p {p_value})"
    )


def _rows(facts: Facts) -> str:
    rows, classes = facts.record.provenance.get("rows"), facts.record.provenance.get("classes")
    if rows is None:
        return "the data"
    return f"{rows:,} rows" + (f" in {classes} classes" if classes else "")


def searched(facts: Facts) -> Part:
    """What was searched, how long that took, and what the race saved."""
    summary, config, record = facts.summary, facts.config, facts.record
    forecast = _forecast(facts)
    race, *audit = race_line(summary.race).splitlines()
    saved = f"; {summary.work_saved:.0%} of the epochs of ended trials were saved, because trials were stopped"
    rule = f"{_RULES[config.race.rule]}{f', risk {config.race.risk:g}' if config.race.rule == 'paired' else ''}"
    table = pairs(
        state=_state(facts),
        data=f"{printable(Path(config.data.path).name)}: {_rows(facts)}; label: {printable(str(config.data.label))}",
        score=f"{record.metric}, {'larger' if record.direction == 'maximize' else 'smaller'} is better",
        folds=f"{record.num_folds}, {'stratified' if config.folds.stratified else 'not stratified'}",
        encoder=str(config.model.encoder) if "encoder" not in config.space else None,
        proposed_by=_SAMPLERS[config.study.sampler],
        trials=counts_line(summary),
        begun=f"{moment(record.created_at)}; last change after {duration(facts.seconds)}, pauses included",
        used=_used(summary.used),
        forecast=forecast,
        epochs=f"{summary.epochs_trained:,} trained{saved if summary.work_saved else ''}",
        stops=f"{rule}; {race.removeprefix('race: ')}",
        audits=" ".join(audit).removeprefix("audit: ") or None,
    )
    return Part(anchor="searched", title="What was searched, and what it took", tables=[table])


def _state(facts: Facts) -> str:
    state = facts.summary.state
    if state == StudyState.FINISHED:
        return "finished"
    return f"{state}: this is what was known on {moment(facts.record.created_at + facts.seconds)}"


def _used(used: Spending) -> str:
    """Hours, and money."""
    return used.hours_in_words + (f"; money {used.money_in_words}" if used.money_in_words else "")


def _forecast(facts: Facts) -> str | None:
    """What was foreseen against what was used; None if nothing was foreseen."""
    forecast, used = facts.summary.forecast, facts.summary.used
    if forecast is None:
        return None
    low, high = forecast["gpu_hours"]
    foreseen = f"{in_hours(low, high, unit=used.unit)} for {counted(forecast['trials'], 'trial')}"
    if facts.summary.state != StudyState.FINISHED or not math.isfinite(used.hours) or not high:
        return foreseen
    if low <= used.hours <= high:
        return f"{foreseen}; the truth is within it"
    end = low if used.hours < low else high
    return f"{foreseen}; the truth is {used.hours / end:.2g} times its {'lower' if end == low else 'upper'} end"


def moment(seconds: float) -> str:
    """A time since 1970 for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
