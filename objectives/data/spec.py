"""The study file's `data:` section: where the data file is, and what its columns mean."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fold_search.objectives.data.class_folders import is_class_folders
from fold_search.objectives.data.sources import Format, Quotes, format_of, is_encoding

ENTITY_PARTS = ("", "_start", "_end", "_type")


def _as_tuple(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    # In strict mode a list from JSON would otherwise be refused.
    return tuple(value) if isinstance(value, list) else value


def _as_word(value: object) -> object:
    # What YAML makes of on and off.
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _as_encoding(name: str | None) -> str | None:
    if name is not None and not is_encoding(name):
        expected = "the name of an encoding, such as cp949, shift_jis, utf-16 or latin-1"
        raise PydanticCustomError("unmet", "expected {expected}", {"expected": expected})
    return name


class RelationSpec(BaseModel):
    """The columns of a sentence with two entities, each a span of its characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sentence: str = Field("sentence", description="The column with the sentence.")
    subject: str = Field(
        "subject",
        description="The column with the text of the first entity, such as subject. Its span is in the columns "
        "subject_start and subject_end, its type in subject_type.",
    )
    object: str = Field(
        "object", description="The column with the text of the second entity, with the same kinds of columns beside it."
    )
    end_inclusive: bool = Field(
        True, description="true: the end of a span is its last character; false: it is the character after."
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns."""
        entities = (f"{entity}{part}" for entity in (self.subject, self.object) for part in ENTITY_PARTS)
        return (self.sentence, *entities)


class DataSpec(BaseModel):
    """The data file and its columns: the study file's `data:` section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(
        description="The data: a CSV, TSV, JSONL or Parquet file, also gzipped; or a folder or zip file with one "
        "folder of images per class, which has the columns `file` and `folder`."
    )
    label: str = Field(description="The column with the class of a row, or with a number if task is regression.")
    text: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="The column with the text, or a list of columns that are joined."
    )
    relation: RelationSpec | None = Field(
        None, description="Instead of text: the columns of a sentence and the two entities in it."
    )
    image: str | None = Field(None, description="Instead of text: the column with the path of an image.")
    images: Path | None = Field(
        None,
        description="Folder or zip file that image paths are relative to; null: data.path, or the folder it is in.",
    )
    separator: str = Field(" ", description="Text between joined columns. Empty cells are left out.")
    format: Format | None = Field(None, description="The file's format; null: from its name.")
    encoding: Annotated[str | None, AfterValidator(_as_encoding)] = Field(
        None,
        description="Encoding of a CSV, TSV or JSONL file and of data.extra, such as cp949, shift_jis or latin-1; "
        "null: UTF-8. If a file starts with a byte order mark, that decides.",
    )
    quotes: Annotated[Quotes, BeforeValidator(_as_word)] = Field(
        "auto",
        description="Whether cells of CSV and TSV may be quoted. on: a quoted cell may contain delimiters and line "
        "breaks. off: a quote is an ordinary character, and each line is a row. auto: found from the file, see "
        "docs/files.md.",
    )
    extra: Path | None = Field(
        None,
        description="A file of more labelled rows with the same columns, used only for training. They are added to the "
        "training rows of every fold, except rows whose text is also in its validation rows.",
    )
    group: str | None = Field(
        None,
        description="A column such as document or patient: rows with the same value are put in the same fold. null: "
        "only rows with the same text, or the same image file, are.",
    )
    task: Literal["classification", "regression"] = Field(
        "classification", description="Whether the label is a class or a number."
    )

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = [name for name in ("text", "relation", "image") if getattr(self, name)]
        if not kinds:
            expected = "a column, or a list of them, or data.relation or data.image in its place"
            context = {"expected": expected, "path": ("data", "text"), "found": list(self.text)}
            raise PydanticCustomError("unmet", "expected {expected}", context)
        if len(kinds) > 1:
            raise ValueError(f"{kinds[0]} and {kinds[1]} are both given, expected one of text, relation and image")
        return self

    def of_file(self, path: Path, *, encoding: str | None = None, quotes: Quotes | None = None) -> Self:
        """The same columns in another file, with that file's encoding; quotes are as here if the format is the same."""
        file_format = format_of(path) or self.format
        own = self.quotes if file_format == (self.format or format_of(self.path)) else "auto"
        changes = {"path": path, "extra": None, "format": file_format, "encoding": encoding, "quotes": quotes or own}
        return self.model_copy(update=changes)

    @property
    def kind(self) -> Literal["text", "relation", "image"]:
        """What the rows are."""
        return "text" if self.text else "relation" if self.relation else "image"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read beside the label."""
        if self.relation is not None:
            return self.relation.columns
        return self.text or (self.image or "",)

    @property
    def image_root(self) -> Path:
        """The folder or zip file that image paths start at."""
        return self.images or (self.path if is_class_folders(self.path) else self.path.parent)
