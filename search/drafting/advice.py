"""What `search init` and `search plan` say of a machine and a time: the table of what was measured, and the choice."""

from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from fold_search.search.drafting.fitting import COMPARED_TRIALS, Fit, compared
from fold_search.search.drafting.measured import Measured
from fold_search.search.drafting.outlook import Outlook
from fold_search.search.drafting.ways import Way
from fold_search.search.reporting.lines import counted
from fold_search.search.reporting.times import between, in_words, roughly, short
from fold_search.search.study.spending import in_hours

MANY_UNKNOWN = 0.02  # share of tokens
MUCH_CUT = 0.05  # share of tokens
TIMES_AS_LONG = (2, 4, 8, 16, 32)  # what more time buys is looked up for these


def render_comparison(fit: Fit) -> Table:
    """Show what each way of training takes here; the chosen one is marked."""
    k = fit.shape.num_folds
    busy = ", busy with other programs" if fit.measured.is_busy else ""
    title = f"measured here: {fit.measured.device}{busy}; {k} folds, bad trials stopped early"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("what is trained")
    for heading in ("one epoch", "one trial", f"{COMPARED_TRIALS} trials"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for way, takes in compared(fit):
        chosen = "chosen" if way is fit.way else ""
        about = "about " if way.name in fit.measured.estimated else ""
        table.add_row(way.words, about + short(takes.epoch), roughly(takes.trial), between(*takes.study), chosen)
    for name, problem in fit.measured.problems.items():
        table.add_row(name, problem, "", "", "")
    return table


def reason(fit: Fit) -> str:
    """Say what was chosen for the time, and why."""
    time, shape = in_words(fit.seconds), fit.shape
    size = f"{counted(shape.trials, 'trial')} of {shape.num_folds} folds and at most {shape.epochs[1]} epochs"
    if not fit.fits:
        return (
            f"In {time} not one trial of anything can be complete on this machine. The shortest time that works is "
            f"about {in_words(1.1 * fit.takes.study[1] / fit.share)}, with {fit.way.words}. Whatever the time, "
            "`search export --baseline` exports a TF-IDF model of texts."
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


def more_time(times: Iterable[tuple[float, Way]], chosen: Way) -> str | None:
    """Say from which of these times on another way of training would be chosen; None if from none."""
    for seconds, way in times:
        if way is not chosen:
            return f"With more time: --time {in_words(seconds)} is enough to train {way.words}."
    return None


def render_outlook(outlook: Outlook, *, price: float | None, disk: Iterable[str]) -> RenderableType:
    """Show what a study will take."""
    busy = ", busy with other programs" if outlook.is_busy else ""
    title = f"on {outlook.device}{busy}; workers: {outlook.workers}"
    times = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    times.add_column("what is trained")
    for heading in ("one epoch", "one fold run", f"one trial, {outlook.num_folds} folds"):
        times.add_column(heading, justify="right")
    several = len({variant.encoder for variant in outlook.variants}) > 1
    for one in outlook.variants:
        name = f"{one.encoder}, {one.way.words}" if several else one.way.words
        times.add_row(name, *map(short, (one.takes.epoch, one.takes.fold_run, one.takes.trial)))
    trials, everything = counted(outlook.trials, "trial"), roughly(outlook.seconds_without_race)
    lines = [f"study of {trials}: {everything}"]
    if outlook.races:
        raced = between(*outlook.seconds)
        lines = [f"study of {trials}: {raced} with the race; {everything} if every fold was trained to its end"]
    low, high = outlook.device_hours
    lines.append(f"device time: {in_hours(low, high, unit='hours')}")
    if price is not None:
        lines.append(f"money: {price * low:.2f} to {price * high:.2f}, at {price:g} an hour")
    lines += [*outlook.limits, *disk, *outlook.problems]
    return Group(times, _render_memory(outlook), *map(Text, lines))


def _render_memory(outlook: Outlook) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title=f"memory of a worker that trains {outlook.weighed}, longest rows",
        title_justify="left",
    )
    for heading in ("batch_size", "max_length", "memory", "of all", "rows at once"):
        table.add_column(heading, justify="right")
    for one in outlook.memory:
        found = one.memory
        cells = (
            ("does not fit", "", "0")
            if found is None
            else (decimal(found.peak), decimal(found.total), str(found.rows_at_once))
        )
        table.add_row(str(one.batch_size), str(one.max_length), *cells)
    return table
