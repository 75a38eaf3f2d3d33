"""Reads a folder or a zip file with one folder for each class, as a table of the files in it."""

import os
import re
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fold_search.objectives.data.image_root import DAMAGES, first_line, is_of_the_system, read_members
from fold_search.objectives.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

FILE, FOLDER = "file", "folder"  # the columns
# The file name endings of the formats that are read.
IMAGE_SUFFIX = re.compile(
    r"\.(apng|avifs?|bmp|gif|icb|ico|j2[ck]|jfif|jp2|jp[cefgx]|jpeg|p[bfgnp]m|png|tga|tiff?|vda|vst|webp)",
    re.IGNORECASE,
)
PART_OF_DATA = re.compile(
    r"(train|training|trn|val|valid|validation|dev|test|testing|tst|eval|evaluation|hold[-_ ]?out)"
    r"([-_ ]?(set|data|split|images?|imgs?|\d+))*",
    re.IGNORECASE,
)

_Parts = tuple[str, ...]  # of a path: folders, and the file's name


def is_class_folders(path: Path) -> bool:
    """Whether the path is a folder or a zip file, so that it should have one folder for each class."""
    return path.is_dir() or path.suffix.lower() == ".zip"


def read_class_folders(path: Path, *, labelled: bool = False) -> "pd.DataFrame":
    """Return a row for each file: `file`, its path in the folder or zip file, and `folder`, its class.

    Rows are sorted by path. The classes' folders may lie in one outer folder. Hidden files and files of the system are
    left out, and so are files beside the classes' folders, unless they are images: these have the folder "". Raises
    DataError; with `labelled` also if the folders are parts of the data, such as train and test, and not classes.
    """
    try:
        if path.is_dir():
            names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        else:
            with zipfile.ZipFile(path) as archive:
                names = list(read_members(archive))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except DAMAGES as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from error
    files = {name: PurePosixPath(name).parts for name in sorted(names) if not is_of_the_system(name)}
    depth = _num_outer(list(files.values()))
    if labelled:
        _check_no_parts(path, list(files.values()), depth)
    rows = [(name, _folder(parts, depth)) for name, parts in files.items()]
    # Beside the folders lie lists and licences. If there is no folder, the files are all that there is.
    if any(folder for _, folder in rows):
        rows = [row for row in rows if row[1] or _is_image(row[0])]
    import pandas as pd  # which takes long to load

    return pd.DataFrame(rows, columns=[FILE, FOLDER], dtype=object)


def _num_outer(files: Sequence[_Parts]) -> int:
    """Return how many folders, one inside the other, are around the classes' folders. A folder of images is a class."""
    depth = 0
    while True:
        inside = [parts for parts in files if len(parts) > depth + 1]
        deeper = [parts for parts in inside if len(parts) > depth + 2]
        beside = any(_is_image(parts[-1]) for parts in files if len(parts) <= depth + 2)
        if beside or not deeper or len({parts[depth] for parts in inside}) > 1:
            return depth
        depth += 1


def _folder(parts: _Parts, depth: int) -> str:
    """Return the class in one Unicode form: macOS writes the same letters in another form than others."""
    return unicodedata.normalize("NFC", parts[depth]) if len(parts) > depth + 1 else ""


def _is_image(name: str) -> bool:
    return IMAGE_SUFFIX.fullmatch(PurePosixPath(name).suffix) is not None


def _check_no_parts(path: Path, files: Sequence[_Parts], depth: int) -> None:
    """Raise DataError if the folders are training, validation and test data, and not classes."""
    folders = {parts[: depth + 1] for parts in files if len(parts) > depth + 1}
    names = [folder[-1] for folder in folders]
    # What all names begin with, as in seg_train and seg_test, without letters that belong to the word itself.
    shared = re.sub(r"[^-_ ]*$", "", os.path.commonprefix(names)) if len(names) > 1 else ""  # noqa: RUF071 - letters
    found = sorted(folder for folder in folders if PART_OF_DATA.fullmatch(folder[-1].removeprefix(shared)))
    if len(found) < 2:
        return
    named = " and ".join(repr("/".join(folder)) for folder in found)
    first = next((folder for folder in found if folder[-1].removeprefix(shared).lower().startswith("tr")), found[0])
    other = next(folder for folder in found[::-1] if folder != first)
    unpacked = path if path.is_dir() else path.with_suffix("")
    place = "" if path.is_dir() else f"it unpacked into {unpacked}, and then "
    raise DataError(
        f"{path}: {named} are parts of the data, not classes; expected {place}one of them: "
        f"`search init {unpacked.joinpath(*first)}`, and {unpacked.joinpath(*other)} for `search evaluate`"
    )
