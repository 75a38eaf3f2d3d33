"""Reads a folder, or a zip file, that has a folder for each class as a table of its files."""

import zipfile
from pathlib import Path, PurePosixPath

import pandas as pd

from objectives.errors import DataError
from objectives.image_root import DAMAGES, first_line

FILE, FOLDER = "file", "folder"  # the columns


def is_class_folders(path: Path) -> bool:
    """Whether the path is a folder or a zip file, which then has a folder for each class."""
    return path.is_dir() or path.suffix.lower() == ".zip"


def read_class_folders(path: Path) -> pd.DataFrame:
    """Return a row for each file in a folder of the folder or zip file: its path in it, `file`, and the `folder`.

    Rows are sorted by path. Hidden files are left out, and files of no folder too unless there are no others. Raises
    DataError.
    """
    try:
        if path.is_dir():
            paths = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        else:
            with zipfile.ZipFile(path) as archive:
                paths = [name for name in archive.namelist() if name and not name.endswith("/")]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except DAMAGES as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from error
    parts = [PurePosixPath(name).parts for name in paths]
    rows = [
        (name, names[0] if len(names) > 1 else "")
        for name, names in sorted(zip(paths, parts, strict=True))
        if not any(part.startswith((".", "__MACOSX")) for part in names if part != "..")
    ]
    in_folders = [row for row in rows if row[1]]
    return pd.DataFrame(in_folders or rows, columns=[FILE, FOLDER], dtype=object)
