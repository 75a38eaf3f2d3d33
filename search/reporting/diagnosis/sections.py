"""The diagnosis in words and tables, for the terminal and for the page."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fold_search.objectives.data.names import class_name
from fold_search.search.reporting.baselines import baselines_line
from fold_search.search.reporting.diagnosis.calibration import Calibration
from fold_search.search.reporting.diagnosis.findings import Diagnosis, FoldSample
from fold_search.search.reporting.diagnosis.generalisation import Correlation, DropoutRelation, FoldGap
from fold_search.search.reporting.diagnosis.held_out import Classes, PooledScore, Residuals
from fold_search.search.study.wording import printable

Row = tuple[str, ...]
_NONE = "-"
_BETTER = {"maximize": "higher", "minimize": "lower"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text; the columns named in `words` hold words, the others numbers."""

    columns: Row
    rows: Sequence[Row]
    words: Row = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One question and its answer; `picture` is the name of the picture that shows it."""

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    picture: str | None = None


def heading(diagnosis: Diagnosis) -> list[str]:
    """Say what is diagnosed, and on which folds."""
    rows = f"{diagnosis.num_rows} rows, each predicted by the fold that did not train on it"
    folds = f"all {diagnosis.num_folds} folds"
    if len(diagnosis.folds) < diagnosis.num_folds:
        folds = f"of {diagnosis.num_folds} folds only {', '.join(map(str, diagnosis.folds))} (counted from 0)"
    params = ", ".join(f"{name} {_value(value)}" for name, value in diagnosis.params.items())
    return [
        f"study {printable(diagnosis.study)}, trial {diagnosis.trial} ({diagnosis.state})",
        f"{folds}: {rows}",
        *([params] if params else []),
        *filter(None, [baselines_line(diagnosis.baselines)]),
    ]


def sections(diagnosis: Diagnosis) -> list[Section]:
    """Return the sections that this kind of label has, in the order of reading."""
    found = [_gap(diagnosis.gaps), _dropout(diagnosis.dropout)]
    names: tuple[str, ...] = ()
    if diagnosis.classes is not None:
        found += [_never_predicted(diagnosis.classes), _class_scores(diagnosis.classes)]
        found += [_confusions(diagnosis.classes, num_rows=diagnosis.num_rows), _suspects(diagnosis.classes)]
        names = diagnosis.classes.label_names
    if diagnosis.calibration is not None:
        found.append(_calibration(diagnosis.calibration))
    if diagnosis.residuals is not None:
        found += [_residuals(diagnosis.residuals), _far_off(diagnosis.residuals)]
    return [*found, _scores(diagnosis.scores, metric=diagnosis.metric), _samples(diagnosis.samples, names=names)]


def _gap(gaps: Sequence[FoldGap]) -> Section:
    rows = [
        _cells(gap.fold, gap.best_epoch, gap.train_loss, gap.val_loss, _signed(gap.gap))
        + _cells(gap.train_loss_running, _signed(gap.excess))
        for gap in gaps
    ]
    columns = ("fold", "best epoch", "training loss", "validation loss", "gap", "printed loss", "printed - training")
    return Section(
        title="Generalisation gap, both losses with dropout off",
        sentences=tuple(_read_gaps(gaps)),
        tables=(Table(columns=columns, rows=rows),),
        picture="losses",
    )


def _read_gaps(gaps: Sequence[FoldGap]) -> Iterator[str]:
    yield (
        "Training and validation loss are both measured at the end of the best epoch, with dropout off; the training "
        "loss on a sample of the training rows. A large gap between them means that the model memorises these rows."
    )
    yield (
        "The printed loss is what a training loop shows: the mean over the batches of the epoch, with dropout on, on "
        "resampled and augmented rows, while the weights still change. It cannot be compared with the validation loss."
    )
    puzzling = sum(gap.train_loss_running > gap.val_loss for gap in gaps)
    real = sum(gap.train_loss > gap.val_loss for gap in gaps)
    if puzzling > real:
        yield (
            f"The printed loss is above the validation loss in {puzzling} of {len(gaps)} folds, the training loss with "
            f"dropout off in {real}. The difference comes from how the printed loss is measured, not from the model."
        )
    elif real:
        yield (
            f"In {real} of {len(gaps)} folds the training loss is above the validation loss even with dropout off: "
            "the training rows are harder, or the model has not learnt them yet."
        )


def _dropout(found: DropoutRelation) -> Section:
    title = "Dropout and the gap"
    if found.reason:
        return Section(title=title, sentences=(f"Not known: {found.reason}.",))
    sentences = [
        f"{len(found.points)} complete trials with the loss {found.loss}. Rank correlation of dropout with the gap: "
        f"{_correlation(found.gap)}; with what the printed loss adds to the training loss: "
        f"{_correlation(found.excess)}."
    ]
    if found.num_other_losses:
        sentences.append(f"{found.num_other_losses} trials are left out, because another loss has another unit.")
    if found.loss_settings_searched:
        named = ", ".join(found.loss_settings_searched)
        sentences.append(f"The trials' losses differ in {named} too, which changes their unit: read this with care.")
    if found.also_searched:
        sentences.append(f"Also searched: {', '.join(found.also_searched)}. A correlation does not prove a cause.")
    return Section(title=title, sentences=tuple(sentences), picture="dropout")


def _never_predicted(classes: Classes) -> Section:
    title, never = "Classes never predicted", classes.never_predicted
    if not never:
        return Section(title=title, sentences=("Every class is predicted at least once.",))
    rows = sum(score.rows for score in never)
    table = Table(
        columns=("class", "rows"),
        rows=[_cells(class_name(score.label), score.rows) for score in never],
        words=("class",),
    )
    lost = f"{len(never)} of {len(classes.scores)} classes are never predicted, so their {rows} rows are always wrong."
    return Section(title=title, sentences=(lost,), tables=(table,))


def _class_scores(classes: Classes) -> Section:
    table = Table(
        columns=("class", "rows", "predicted", "precision", "recall", "F1"),
        rows=[
            _cells(class_name(score.label), score.rows, score.predicted, score.precision, score.recall, score.f1)
            for score in classes.scores
        ],
        words=("class",),
    )
    return Section(title="Classes, worst first", tables=(table,))


def _confusions(classes: Classes, *, num_rows: int) -> Section:
    pairs = classes.confusions
    table = Table(
        columns=("true", "predicted", "rows", "of the true class"),
        rows=[
            _cells(class_name(pair.label), class_name(pair.predicted), pair.count, f"{pair.share:.0%}")
            for pair in pairs
        ],
        words=("true", "predicted"),
    )
    wrong = f"{sum(pair.count for pair in pairs)} of {num_rows} rows are predicted as another class."
    return Section(
        title="Most confused classes", sentences=(wrong,), tables=(table,) if pairs else (), picture="confusion"
    )


def _suspects(classes: Classes) -> Section:
    table = Table(
        columns=("row", "label", "predicted", "p(label)", "p(predicted)", "text"),
        rows=[
            _cells(row.row, class_name(row.label), class_name(row.predicted), f"{row.probability:.2g}")
            + _cells(f"{row.predicted_probability:.2g}", row.text)
            for row in classes.suspects
        ],
        words=("label", "predicted", "text"),
    )
    sentence = (
        "The rows whose label is least probable for a model that never saw them. Row 1 is the first data row of the "
        "file. Read them: some have a wrong label, the others are hard."
    )
    return Section(title="Likely label errors", sentences=(sentence,), tables=(table,))


def _calibration(found: Calibration) -> Section:
    sentences = [
        "How true the probabilities are: lower is better. No correction is fitted on the rows that it corrects."
    ]
    if found.temperature is not None:
        sure = "too confident" if found.temperature > 1 else "not confident enough"
        sentences.append(f"The temperature fitted on all rows is {found.temperature:.2f}: the model is {sure}.")
    sentences += [f"Left out: {reason}." for reason in found.missing]
    table = Table(
        columns=("probabilities", "expected calibration error", "log loss"),
        rows=[_cells(way.name, way.expected_calibration_error, way.log_loss) for way in found.ways],
        words=("probabilities",),
    )
    return Section(title="Calibration", sentences=tuple(sentences), tables=(table,), picture="reliability")


def _residuals(residuals: Residuals) -> Section:
    table = Table(
        columns=("true numbers", "rows", "mean true", "mean predicted", "bias", "mean absolute error"),
        rows=[
            _cells(f"{tenth.low:.4g} to {tenth.high:.4g}", tenth.rows, tenth.mean_truth, tenth.mean_predicted)
            + _cells(_signed(tenth.bias), tenth.mae)
            for tenth in residuals.tenths
        ],
        words=("true numbers",),
    )
    sentences = (
        "The label is a number, so classes, confusions, label errors and calibration are left out.",
        "The rows in tenths by their true number. A bias above 0 at the low end and below 0 at the high end means that "
        "the predictions stay too close to the middle.",
    )
    return Section(title="Residuals", sentences=sentences, tables=(table,), picture="residuals")


def _far_off(residuals: Residuals) -> Section:
    rows = [
        _cells(row.row, row.truth, row.predicted, _signed(row.predicted - row.truth), row.text)
        for row in residuals.far_off
    ]
    table = Table(columns=("row", "true", "predicted", "residual", "text"), rows=rows, words=("text",))
    return Section(title="Rows with the largest error", tables=(table,))


def _scores(scores: Sequence[PooledScore], *, metric: str) -> Section:
    table = Table(
        columns=("metric", "pooled", "mean", "std", "better"),
        rows=[_cells(score.metric, score.pooled, score.mean, score.std, _BETTER[score.direction]) for score in scores],
        words=("metric", "better"),
    )
    sentence = (
        "Pooled: one score over all held-out rows together; it varies less for rare classes. Mean and standard "
        f"deviation: over the folds. The study ranks trials by the mean of {metric}."
    )
    return Section(title="Scores, pooled and by fold", sentences=(sentence,), tables=(table,))


def _samples(samples: Sequence[FoldSample], *, names: Sequence[str]) -> Section:
    title = "What each fold trained on"
    if not samples:
        return Section(title=title, sentences=("Not recorded for this trial.",))
    leaked = sum(sample.num_validation_rows_used for sample in samples)
    verdict = "Leak check: no fold trained on a row that it validates on."
    if leaked:
        verdict = f"LEAK: {leaked} validation rows were also used for training; the scores are not valid."
    folds = Table(
        columns=("fold", "training rows", "rows used", "synthetic rows", "validation rows used"),
        rows=[
            _cells(sample.fold, sample.num_rows_in, sample.num_rows_out, sample.num_synthetic)
            + _cells(sample.num_validation_rows_used)
            for sample in samples
        ],
    )
    tables = (folds, _counts_by_class(samples, names)) if names else (folds,)
    return Section(title=title, sentences=(verdict,), tables=tables)


def _counts_by_class(samples: Sequence[FoldSample], names: Sequence[str]) -> Table:
    totals = [sum(sample.counts_before[label] for sample in samples) for label in range(len(names))]
    rows = [
        _cells(class_name(names[label]), *(_change(s.counts_before[label], s.counts_after[label]) for s in samples))
        for label in sorted(range(len(names)), key=lambda label: (-totals[label], names[label]))
    ]
    return Table(columns=("class", *(f"fold {sample.fold}" for sample in samples)), rows=rows, words=("class",))


def _cells(*values: str | float) -> Row:
    """Text and whole numbers as they are, other numbers with four decimals."""
    return tuple(_number(value) if isinstance(value, float) else str(value) for value in values)


def _change(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} → {after}"


def _correlation(found: Correlation | None) -> str:
    if found is None:
        return "none, because it is the same in all trials"
    return f"{found.rho:+.2f} (n = {found.n}, p = {found.p_value:.2g})"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else _NONE


def _signed(value: float) -> str:
    return f"{value:+.4f}" if math.isfinite(value) else _NONE


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
