"""What the user says of the data file: where it is, and which of its columns are read as what."""

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
    # In strict mode a list from JSON would otherwise be no tuple.
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
        description="The column with the first entity's text; its span is in the columns of this name with _start and "
        "_end after it, its type in the one with _type.",
    )
    object: str = Field("object", description="The same of the second entity.")
    end_inclusive: bool = Field(True, description="Whether the end of a span is its last character, or the one after.")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns."""
        entities = (f"{entity}{part}" for entity in (self.subject, self.object) for part in ENTITY_PARTS)
        return (self.sentence, *entities)


class DataSpec(BaseModel):
    """Where the rows are and which columns count: the study file's `data:` section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(
        description="CSV, TSV, JSONL or Parquet, each also gzipped; or a folder or zip file with a folder of "
        "images for each class, which is read as the columns `file` and `folder`."
    )
    label: str = Field(description="The column with the class of a row, or with its number if the task is regression.")
    text: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="The column with the text, or several that are joined."
    )
    relation: RelationSpec | None = Field(
        None, description="In place of text: the columns with a sentence and two entities marked in it."
    )
    image: str | None = Field(None, description="In place of text: the column with the path of an image.")
    images: Path | None = Field(
        None, description="The folder or zip file that image paths start at; null: data.path, or the folder it is in."
    )
    separator: str = Field(" ", description="What stands between the joined columns; empty cells are left out.")
    format: Format | None = Field(None, description="The file's format; null tells it from the name.")
    encoding: Annotated[str | None, AfterValidator(_as_encoding)] = Field(
        None,
        description="The encoding of CSV, TSV and JSONL, such as cp949, shift_jis or latin-1, of data.extra too; null: "
        "UTF-8. A byte order mark at the start of a file decides before either.",
    )
    quotes: Annotated[Quotes, BeforeValidator(_as_word)] = Field(
        "auto",
        description="Whether cells of CSV and TSV may be in quotes, and may then hold delimiters and line ends. on: "
        "they may; off: a quote is a character like any other, and each line is a row; auto: what the file itself "
        "shows, see docs/files.md.",
    )
    extra: Path | None = Field(
        None,
        description="More labelled rows, with the same columns, that are only ever trained on: they join the training "
        "part of every fold but where they repeat a text of its validation part.",
    )
    group: str | None = Field(
        None,
        description="The column by which rows stay together: rows of one document or one patient, say, are all in one "
        "fold, however their texts differ; null: rows with equal texts, or equal image files, are.",
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
        """The same columns in another file: of its own encoding, with quotes as here if it is of this format."""
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
