"""What `search init` and `search plan` say of a machine and a time: the table of what was measured, and the choice."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fold_search.search.drafting.fitting import COMPARED_TRIALS, SHARE_OF_TIME, Fit, compared
from fold_search.search.drafting.measured import Measured

MANY_UNKNOWN = 0.02  # share of tokens
MUCH_CUT = 0.05  # share of tokens


def in_words(seconds: float) -> str:
    """Return a time as `--time` reads it, in minutes or hours: 30m, 1h30m, 45s."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes = round(whole / 60)
    hours, rest = divmod(minutes, 60)
    return f"{minutes}m" if not hours else f"{hours}h{rest:02d}m" if rest else f"{hours}h"


def between(low: float, high: float) -> str:
    """Return a range of times: 12m to 25m, or one time if both read the same."""
    least, most = in_words(low), in_words(high)
    return least if least == most else f"{least} to {most}"


def render_comparison(fit: Fit) -> Table:
    """Show what each way of training takes here; the chosen one is marked."""
    k = fit.shape.num_folds
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"measured here: {fit.measured.device}", title_justify="left")
    table.add_column("what is trained")
    for heading in ("one epoch", f"one trial (K = {k})", f"{COMPARED_TRIALS} trials with the race"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for way, takes in compared(fit):
        chosen = "chosen" if way is fit.way else ""
        about = "about " if way.name in fit.measured.estimated else ""
        epoch = f"{takes.epoch:.1f}s" if takes.epoch < 10 else in_words(takes.epoch)
        table.add_row(way.words, about + epoch, in_words(takes.trial), between(*takes.study), chosen)
    for name, problem in fit.measured.problems.items():
        table.add_row(name, problem, "", "", "")
    return table


def reason(fit: Fit) -> str:
    """Say what was chosen for the time, and why."""
    time, shape = in_words(fit.seconds), fit.shape
    size = f"{shape.trials} trials of {shape.num_folds} folds and at most {shape.epochs} epochs"
    if not fit.fits:
        return (
            f"In {time} not one trial of anything can be complete on this machine. The shortest time that works is "
            f"about {in_words(fit.takes.study[1] / SHARE_OF_TIME)}, with {fit.way.words}. Whatever the time, the "
            "baselines are computed first, and `search export --baseline` exports one."
        )
    return f"For {time} on {fit.measured.device}: train {fit.way.words}; {size} take about {between(*fit.takes.study)}."


def warnings(measured: Measured, *, encoder: str, max_length: int) -> Iterator[str]:
    """Yield what speaks against the encoder or the length for these texts."""
    if measured.unknown >= MANY_UNKNOWN:
        yield (
            f"{measured.unknown:.1%} of the tokens are unknown to the tokenizer of {encoder}: the encoder was trained "
            "on another language or script. Choose one that knows it with --encoder."
        )
    if (cut := measured.share_cut(max_length)) >= MUCH_CUT:
        yield (
            f"{cut:.0%} of all tokens lie beyond max_length {max_length} and are not read. model.long_text says which "
            "part of a long text is read."
        )


def more_time(fit: Fit) -> str | None:
    """Say from which time on a stronger way of training would be chosen; None if there is none."""
    stronger = []
    for way, takes in compared(fit):
        if way is fit.way:
            break
        if way.name != "lora":
            stronger.append((takes.study[1] / SHARE_OF_TIME, way))
    if not stronger:
        return None
    seconds, way = min(stronger, key=lambda pair: pair[0])
    return f"With more time: from about --time {in_words(seconds)} on, {way.words} can be trained ({COMPARED_TRIALS} trials)."
