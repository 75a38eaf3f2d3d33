"""The options that several commands have, and the study and database that they name."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fold_search.search.commands.completing import complete_setting, complete_study
from fold_search.search.study import defaults

if TYPE_CHECKING:
    from fold_search.search.study.opened import OpenStudy


study_option = click.option(
    "--study", "name", required=True, metavar="NAME", shell_complete=complete_study, help="The study's name."
)
storage_option = click.option("--storage", metavar="URL", help=f"The study's database.  [default: {defaults.DATABASE}]")
model_option = click.option(
    "--model", "folder", type=click.Path(path_type=Path), required=True, help="The folder that `search export` wrote."
)
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(min=1), help="Rows per forward pass.  [default: 128 on a GPU, 32 on a CPU]"
)
images_option = click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder or zip file that image paths are relative to.  [default: the folder of DATA]",
)
columns_option = click.option(
    "--columns",
    multiple=True,
    metavar="STUDY=FILE,...",
    help="Columns that have other names in this file, such as title=Title,abstract=Summary.",
)
machine_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_setting,
    help="Set data.path or storage.* for this machine; repeat for more.",
)


def _encoding(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    from fold_search.objectives.data.sources import is_encoding

    if name is not None and not is_encoding(name):
        raise click.BadParameter(f"found {name!r}, expected an encoding's name, such as cp949, shift_jis or latin-1")
    return name


encoding_option = click.option(
    "--encoding",
    metavar="NAME",
    callback=_encoding,
    help="Encoding of the file, such as cp949, shift_jis or latin-1.  [default: UTF-8, or the file's byte order mark]",
)
quotes_option = click.option(
    "--quotes",
    type=click.Choice(["auto", "on", "off"]),
    help="Whether cells of CSV and TSV may be quoted. off: a quote is plain text.  [default: auto, from the file]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def size(text: str) -> int:
    """The bytes of 512MB or 8GB; the units are powers of 1000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB)", text, re.IGNORECASE)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"found {text}, expected a size such as 512MB or 8GB")
    return int(float(found[1]) * {"MB": 10**6, "GB": 10**9}[found[2].upper()])


memory_option = click.option(
    "--memory-limit",
    type=size,
    metavar="SIZE",
    help="Memory limit of each process, such as 8GB.  [default: no limit]",
)


def database_url(storage: str | None) -> str:
    """The URL that --storage says, or the usual one, with the password of the environment."""
    from fold_search.search.study.environment import Secrets, with_password

    return with_password(storage or defaults.DATABASE, Secrets.read())


def find_study(name: str, storage: str | None) -> "OpenStudy":
    """The study of that name in the database that --storage says; ConfigError where there is none."""
    url = database_url(storage)
    from fold_search.search.study.opened import find

    return find(name, url=url)
