"""The diagnosis in pictures: PNG files in the colours of Okabe and Ito, which everybody can tell apart."""

import io
import math
import warnings
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import MaxNLocator

from fold_search.objectives.data.names import class_name
from fold_search.search.reporting.diagnosis.calibration import Calibrated
from fold_search.search.reporting.diagnosis.findings import Diagnosis
from fold_search.search.reporting.diagnosis.generalisation import Correlation, Curve, DropoutRelation
from fold_search.search.reporting.diagnosis.held_out import Classes, Tenth

MOST_CLASSES = 25

_BLUE, _ORANGE, _GREY, _BLACK = "#0072B2", "#D55E00", "#999999", "#222222"
# The others are for labels that are not written in Latin letters.
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK KR", "Malgun Gothic", "Apple SD Gothic Neo")
_STYLE = {
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "figure.titlesize": 11,
    "legend.frameon": False,
}
_MOST_COLUMNS = 5
_LEAST_WIDTH = 5.2
_MOST_LETTERS = 28
_MOST_ANNOTATED = 12


def pictures(diagnosis: Diagnosis) -> dict[str, bytes]:
    """Draw every picture that there is something to see on; PNG bytes by name."""
    trial = diagnosis.trial
    installed = {font.name for font in fontManager.ttflist}
    fonts = {"font.family": [font for font in _FONTS if font in installed]}
    with mpl.rc_context(_STYLE | fonts), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        drawn = {"losses": _losses(diagnosis.curves, trial=trial)}
        if diagnosis.dropout.reason is None:
            drawn["dropout"] = _dropout(diagnosis.dropout, trial=trial)
        if diagnosis.classes is not None and diagnosis.classes.confusions:
            drawn["confusion"] = _confusion(diagnosis.classes)
        if diagnosis.calibration is not None:
            drawn["reliability"] = _reliability(diagnosis.calibration.ways)
        if diagnosis.residuals is not None:
            drawn["residuals"] = _residuals(diagnosis.residuals.tenths)
        return {name: _png(figure) for name, figure in drawn.items()}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _grid(num: int, *, width: float, height: float, share_y: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure of `num` panels, each of this size in inches, in rows of at most five."""
    columns = min(num, _MOST_COLUMNS)
    rows = math.ceil(num / columns)
    figure = Figure(figsize=(max(width * columns, _LEAST_WIDTH), height * rows + 0.8), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False).flat)
    for unused in panels[num:]:
        unused.remove()
    return figure, panels[:num]


def _losses(curves: Sequence[Curve], *, trial: int) -> Figure:
    figure, panels = _grid(len(curves), width=2.6, height=2.6, share_y=True)
    for axes, curve in zip(panels, curves, strict=True):
        _draw_curve(axes, curve)
    panels[0].set_ylabel("loss")
    figure.suptitle(f"Losses by epoch, trial {trial}: compare only the solid lines")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4 if len(curves) > 4 else 2)
    return figure


def _draw_curve(axes: Axes, curve: Curve) -> None:
    epochs = range(1, len(curve.train_loss) + 1)
    axes.axvline(curve.best_epoch, color=_GREY, linewidth=0.8, linestyle=":", label="best epoch")
    for values, colour, line, label in (
        (curve.train_loss_running, _BLUE, "--", "training, printed during the epoch (dropout on)"),
        (curve.train_loss, _BLUE, "-", "training, at the epoch's end"),
        (curve.val_loss, _ORANGE, "-", "validation, at the epoch's end"),
    ):
        axes.plot(epochs, values, color=colour, linestyle=line, marker="o", markersize=3, label=label)
    axes.set_title(f"fold {curve.fold}")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _dropout(found: DropoutRelation, *, trial: int) -> Figure:
    figure, panels = _grid(2, width=4.2, height=3.2, share_y=False)
    dropouts = [point.dropout for point in found.points]
    gaps, excesses = [point.gap for point in found.points], [point.excess for point in found.points]
    for axes, values, title, correlation in (
        (panels[0], gaps, "validation loss - training loss", found.gap),
        (panels[1], excesses, "printed - training loss", found.excess),
    ):
        axes.axhline(0, color=_GREY, linewidth=0.8)
        axes.scatter(dropouts, values, color=_BLUE, s=22, alpha=0.8, linewidths=0)
        axes.set_xlabel("dropout")
        axes.set_ylabel(title)
        axes.set_title(_rank_correlation(correlation))
    figure.suptitle(f"Dropout, the gap and the printed loss: {len(dropouts)} complete trials, means over folds")
    this = [point for point in found.points if point.trial == trial]
    for point in this:
        for axes, value in ((panels[0], point.gap), (panels[1], point.excess)):
            axes.scatter([point.dropout], [value], s=70, facecolors="none", edgecolors=_ORANGE, linewidths=1.6)
    if this:
        panels[0].scatter([], [], facecolors="none", edgecolors=_ORANGE, label=f"trial {trial}")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center")
    return figure


def _rank_correlation(found: Correlation | None) -> str:
    return f"rank correlation {found.rho:+.2f}, p = {found.p_value:.2g}" if found else "the same in all trials"


def _confusion(classes: Classes) -> Figure:
    chosen = _most_confused(classes)
    names = [_short(classes.label_names[label]) for label in chosen]
    counts = np.array(classes.matrix)
    shares = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[np.ix_(chosen, chosen)]
    size = 2.6 + 0.34 * len(chosen)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(chosen)), names, rotation=90)
    axes.set_yticks(range(len(chosen)), names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.spines[:].set_visible(False)
    _annotate(axes, shares, counts[np.ix_(chosen, chosen)])
    figure.colorbar(image, ax=axes, label="share of the rows of the true class", shrink=0.7, format="{x:.0%}")
    all_there = len(chosen) == len(classes.label_names)
    which = "all classes" if all_there else f"the {len(chosen)} most confused of {len(counts)} classes"
    axes.set_title(f"Confusion out of fold: {which}", pad=10)
    return figure


def _most_confused(classes: Classes) -> list[int]:
    """The classes with the most wrong rows, theirs or taken for theirs, in the order of their names."""
    counts = np.array(classes.matrix)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    return sorted(np.argsort(-wrong, kind="stable")[:MOST_CLASSES].tolist())


def _annotate(axes: Axes, shares: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", counts: object) -> None:
    if len(shares) > _MOST_ANNOTATED:
        return
    for (row, column), count in np.ndenumerate(np.asarray(counts)):
        if count:
            colour = "white" if shares[row, column] > 0.6 else _BLACK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)


def _reliability(ways: Sequence[Calibrated]) -> Figure:
    figure, panels = _grid(len(ways), width=3.3, height=3.6, share_y=True)
    for axes, way in zip(panels, ways, strict=True):
        _draw_reliability(axes, way)
    panels[0].set_ylabel("share of correct rows")
    panels[0].legend(loc="upper left")
    figure.suptitle("Reliability: on the dotted line, a probability is the share of correct rows")
    return figure


def _draw_reliability(axes: Axes, way: Calibrated) -> None:
    confidences, accuracies = [b.confidence for b in way.bins], [b.accuracy for b in way.bins]
    rows = np.array([b.rows for b in way.bins])
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="perfect")
    axes.vlines(confidences, confidences, accuracies, color=_ORANGE, linewidth=1.5, label="error")
    axes.scatter(
        confidences, accuracies, s=8 + 160 * rows / rows.max(), color=_BLUE, alpha=0.8, linewidths=0, label="area: rows"
    )
    axes.set_title(f"{way.name}\nECE {way.expected_calibration_error:.3f}, log loss {way.log_loss:.3f}")
    axes.set_xlabel("probability of the predicted class")
    axes.set_xlim(0, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_aspect("equal")


def _residuals(tenths: Sequence[Tenth]) -> Figure:
    truth, predicted = [tenth.mean_truth for tenth in tenths], [tenth.mean_predicted for tenth in tenths]
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    ends = _ends([*truth, *predicted])
    axes.plot(ends, ends, color=_GREY, linestyle=":", label="perfect")
    axes.errorbar(
        truth, predicted, yerr=[tenth.mae for tenth in tenths], fmt="o", color=_BLUE, ecolor=_ORANGE, markersize=5,
        label="a tenth of the rows, with its mean absolute error",
    )  # fmt: skip
    axes.set_xlabel("mean true number")
    axes.set_ylabel("mean predicted number, out of fold")
    axes.set_title("Predicted against true, by tenths of the true number")
    axes.legend(loc="upper left")
    return figure


def _ends(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]


def _short(name: str) -> str:
    """The name, or its two ends: names that begin alike often end differently."""
    name = class_name(name)
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS // 2]}…{name[1 - _MOST_LETTERS // 2 :]}"
