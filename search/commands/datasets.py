"""Commands that make data sets."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fold_search.search.commands.answers import say
from fold_search.search.commands.options import encoding_option, quotes_option

if TYPE_CHECKING:
    from fold_search.objectives.data.sources import Quotes


@click.group("data")
def data() -> None:
    """Make data sets."""


@data.command("demo")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--rows", type=click.IntRange(min=1), default=900, show_default=True)
@click.option("--classes", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def data_demo(out: Path, rows: int, classes: int, seed: int) -> None:
    """Build a real, long-tailed text set from the docstrings of installed packages."""
    from fold_search.search.drafting.demo import build_demo

    say(str(build_demo(out, rows=rows, classes=classes, seed=seed)))


@data.command("extractive")
@click.argument("source", metavar="DOCUMENTS", type=click.Path(path_type=Path))
@click.option("--document", required=True, metavar="COLUMN", help="The text, or its list of sentences.")
@click.option("--summary", required=True, metavar="COLUMN", help="The reference summary, likewise.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The CSV file of the sentences.")
@click.option("--max-sentences", type=click.IntRange(min=1), help="The most sentences of a document with label 1.")
@encoding_option
@quotes_option
def data_extractive(
    source: Path,
    document: str,
    summary: str,
    out: Path,
    max_sentences: int | None,
    encoding: str | None,
    quotes: "Quotes | None",
) -> None:
    """Make sentences to classify, in an extractive summary or not, of JSONL documents with reference summaries."""
    from fold_search.objectives.data.sources import Source, format_of
    from fold_search.search.drafting.extractive import build_extractive

    documents = Source(path=source, format=format_of(source) or "jsonl", encoding=encoding, quotes=quotes or "auto")
    say(str(build_extractive(documents, out, document=document, summary=summary, max_sentences=max_sentences)))
    say("in the study file: data.text [previous, sentence, next] or sentence, data.group document")
