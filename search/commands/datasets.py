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
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The CSV file to write.")
@click.option("--rows", type=click.IntRange(min=1), default=900, show_default=True, help="Number of rows.")
@click.option("--classes", type=click.IntRange(min=2), default=8, show_default=True, help="Number of classes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of rows.")
def data_demo(out: Path, rows: int, classes: int, seed: int) -> None:
    """Make a demo data set: docstrings of installed packages, with classes of very different size."""
    from fold_search.search.drafting.demo import build_demo

    say(str(build_demo(out, rows=rows, classes=classes, seed=seed)))


@data.command("extractive")
@click.argument("source", metavar="DOCUMENTS", type=click.Path(path_type=Path))
@click.option(
    "--document",
    required=True,
    metavar="COLUMN",
    help="The column with the document: its text, or its list of sentences.",
)
@click.option(
    "--summary",
    required=True,
    metavar="COLUMN",
    help="The column with the reference summary: text or a list of sentences.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The CSV file to write, one sentence per row."
)
@click.option(
    "--max-sentences", type=click.IntRange(min=1), help="At most this many sentences of a document get label 1."
)
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
    """Make a data set for extractive summarisation from documents with reference summaries.

    DOCUMENTS is a JSONL file. Each sentence becomes a row: label 1 if it belongs in the summary, else 0.
    """
    from fold_search.objectives.data.sources import Source, format_of
    from fold_search.search.drafting.extractive import build_extractive

    documents = Source(path=source, format=format_of(source) or "jsonl", encoding=encoding, quotes=quotes or "auto")
    say(str(build_extractive(documents, out, document=document, summary=summary, max_sentences=max_sentences)))
    say("next, in the study file: data.text: [previous, sentence, next] (or sentence), data.group: document")
