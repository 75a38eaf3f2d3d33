"""What a shell proposes where the user presses TAB: studies, and keys of the study file with their values.

It never prints an error and never makes a database; where something cannot be found, nothing is proposed.
"""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin
from urllib.parse import quote

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from fold_search.search.study import defaults

if TYPE_CHECKING:
    from pydantic import BaseModel

ASKED = "_SEARCH_COMPLETE"  # the variable by which click is asked
CONNECT_SECONDS = 2
ON_ANY_MACHINE = ("data.path", "data.images", "data.extra", "storage.", "trackers.")  # what continues a study unchanged


def complete_study(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The studies of the database that the words before say, or of the usual one."""
    with suppress(Exception):
        names = _study_names(_database(context))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return []


def complete_setting(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The keys of the study file, `section.key=`; after the = the values of a key that has only some."""
    with suppress(Exception):
        from fold_search.search.study.config import StudyConfig

        key, given, value = incomplete.partition("=")
        fields = dict(_keys(StudyConfig))
        if given:
            known = [f"{key}={choice}" for choice in _choices(key, fields[key].annotation)]
            return [CompletionItem(choice) for choice in known if choice.startswith(f"{key}={value}")]
        allowed = ("",) if context.info_name == "run" else ON_ANY_MACHINE
        found = {name: field for name, field in fields.items() if name.startswith(incomplete)}
        return [
            CompletionItem(f"{name}=", help=_first_sentence(field.description))
            for name, field in found.items()
            if name.startswith(allowed)
        ]
    return []


def _database(context: click.Context) -> str:
    """The database's URL, as --storage says or the study file of --config."""
    if url := context.params.get("storage"):
        return str(url)
    if (file := context.params.get("file")) is not None:
        import yaml

        sections = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        return str((sections.get("storage") or {}).get("url") or defaults.DATABASE)
    return defaults.DATABASE


def _study_names(url: str) -> list[str]:
    """The names, sorted. A SQLite file is read as it is: SQLAlchemy takes longer to load than a user waits."""
    kind, _, place = url.partition(":///")
    if kind.partition("+")[0] != "sqlite":
        return _names_on_a_server(url)
    file = Path(place.partition("?")[0])
    import sqlite3

    # Without a process that uses the database there is no -wal beside it, and reading would leave one.
    mode = "" if Path(f"{file}-wal").exists() else "&immutable=1"
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro{mode}", uri=True, timeout=1.0)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM ledger_studies ORDER BY name")]


def _names_on_a_server(url: str) -> list[str]:
    from fold_search.search.commands.options import database_url
    from fold_search.storage.catalog import list_studies
    from fold_search.storage.database import connect, parse

    patient = parse(database_url(url)).update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
    engine = connect(patient.render_as_string(hide_password=False), create=False)
    return sorted(record.name for record in list_studies(engine))


def _keys(model: "type[BaseModel]", path: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a study file, dotted, with its field; of `space` the parameters that can be searched."""
    from fold_search.search.study.parameters import PARAMETERS
    from fold_search.search.study.wording import section_of

    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if f"{path}{name}" == "space":
            yield from ((f"space.{parameter}", known.field) for parameter, known in PARAMETERS.items())
        elif inner is not None:
            yield from _keys(inner, f"{path}{name}.")
        elif path:
            yield f"{path}{name}", field


def _choices(key: str, annotation: Any) -> list[str]:
    """The values of a key that has only some; a metric's name, true and false, null where nothing is one of them."""
    from fold_search.objectives.scoring.metrics import METRICS

    if key.startswith("space."):
        return ["null"]
    if key in ("study.metric", "study.epoch_metric"):
        return [*METRICS, *(["null"] if key == "study.epoch_metric" else [])]
    if annotation is bool:
        return ["true", "false"]
    if annotation is type(None):
        return ["null"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices("", part)]


def _first_sentence(description: str | None) -> str:
    return (description or "").partition(". ")[0].rstrip(".")


class Bash(BashComplete):
    """Bash splits words at = and : too; here they are whole, and what is proposed is what bash has yet to write."""

    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", 'COMPREPLY+=("$value")\n            [[ $value == *= ]] && compopt -o nospace'
    )
    _written = ""  # of the word, before the part that bash completes

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one at it."""
        at = int(os.environ["COMP_CWORD"])
        words = split_arg_string(os.environ["COMP_WORDS"])[: at + 1]
        words += [""] * (at + 1 - len(words))
        joined: list[str] = []
        for before, word in zip(["", *words], words, strict=False):
            if joined and (_splits(word) or _splits(before)):
                joined[-1] += word
            else:
                joined.append(word)
        self._written = joined[-1].removesuffix("" if _splits(words[-1]) else words[-1])
        return joined[1:-1], joined[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """A line for the script."""
        return f"{item.type},{item.value.removeprefix(self._written)}"


class Zsh(ZshComplete):
    """Zsh adds no space after the = of a key."""

    source_template = (
        ZshComplete.source_template.replace("    local -a response\n", "    local -a response\n    local -a suffix\n")
        .replace(
            '        if [[ "$type" == "plain" ]]; then\n',
            '        if [[ "$type" == "plain" ]]; then\n            [[ "$key" == *= ]] && suffix=(-S "")\n',
        )
        .replace("completions_with_descriptions -U", 'completions_with_descriptions -U "${suffix[@]}"')
        .replace("compadd -U", 'compadd "${suffix[@]}" -U')
    )


def _splits(word: str) -> bool:
    return bool(word) and set(word) <= {"=", ":"}


def prepare() -> None:
    """Let click complete for these shells as said above; for fish it does so by itself."""
    add_completion_class(Bash)
    add_completion_class(Zsh)
