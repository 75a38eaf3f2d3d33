"""Relations: a sentence with two entities, each a span of characters, and the forms in which an encoder reads them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fold_search.objectives.data.dataset import Content, Dataset
from fold_search.objectives.data.spec import RelationSpec
from fold_search.objectives.errors import DataError

Form = Literal["separated", "markers", "typed_markers", "typed_punctuation"]
Role = Literal["subject", "object"]

ROLES: tuple[Role, Role] = ("subject", "object")
TYPED: tuple[Form, ...] = ("typed_markers", "typed_punctuation")  # they name the entities' types


@dataclass(frozen=True, slots=True)
class Entity:
    """The characters of a sentence from `start` to before `end`."""

    start: int
    end: int
    type: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A sentence and two of its entities, which may overlap."""

    sentence: str
    subject: Entity
    object: Entity


@dataclass(frozen=True, slots=True)
class MarkedText:
    """What an encoder reads of a relation; places are characters of `text`."""

    text: str
    subject: int  # where the subject begins, with its marker
    object: int
    spans: tuple[tuple[int, int], ...]  # start and end (exclusive) of the entities, with their markers


def read_relations(content: Content, *, form: Form, known_types: Collection[str] = ()) -> list[Relation]:
    """Return the rows' relations, checked so that `form` can show them.

    Raises DataError, with the file and the data row, if a span's ends are not whole numbers, are out of range or do
    not enclose the entity's text; if a type that `form` shows is missing or is not one of the `known_types` (where
    these are given); or if a marker occurs in a sentence.
    """
    spec = content.spec.relation
    if spec is None:
        raise ValueError("read_relations needs rows with data.relation")
    cells = [content.columns[name] for name in spec.columns]
    relations = [
        _read(dict(zip(spec.columns, row, strict=True)), spec=spec, form=form, where=_Where(content, index))
        for index, row in enumerate(zip(*cells, strict=True))
    ]
    if known_types:
        _check_types(relations, content, known=known_types)
    markers = new_tokens(known_types or entity_types(relations), form=form)
    for index, relation in enumerate(relations):
        for marker in markers:
            if marker in relation.sentence:
                # A model that is trained already has its form.
                advice = ", or another entity_form" if isinstance(content, Dataset) else ""
                raise DataError(
                    f"{_Where(content, index)}: the sentence has {marker!r} in it, which model.entity_form {form} adds "
                    f"as a token; expected a sentence without it{advice}"
                )
    return relations


def entity_types(relations: Iterable[Relation]) -> tuple[str, ...]:
    """Return the types of all entities, sorted."""
    return tuple(sorted({entity.type for relation in relations for _, entity in _entities(relation)}))


def shown_types(content: Content, *, form: Form) -> tuple[str, ...]:
    """Return the types of the rows' entities; none if `form` does not show them. DataError as in read_relations."""
    return entity_types(read_relations(content, form=form)) if form in TYPED else ()


def new_tokens(types: Iterable[str], *, form: Form) -> dict[str, str]:
    """Return the tokens that `form` adds to the encoder's, each with its meaning in words, in a fixed order.

    Each type has a token for each of the two roles, since other rows may have it in a role that these do not.
    """
    kinds = {"markers": [""], "typed_markers": sorted(set(types))}.get(form, [])
    tokens: dict[str, str] = {}
    for role in ROLES:
        for kind in kinds:
            opening, closing = _signs(role, kind, form=form)
            tokens |= {opening: f"{role} {kind}".strip(), closing: f"end {role} {kind}".strip()}
    return tokens


def mark(relation: Relation, *, form: Form, separator: str) -> MarkedText:
    """Return what an encoder reads. `separator`, the tokenizer's separating token, is only for the form `separated`.

    If two entities overlap, the longer one is marked outside: where both begin together, that which ends later.
    """
    if form != "separated":
        return _insert(relation, form=form)
    sentence, subject, obj = relation.sentence, relation.subject, relation.object
    before = [sentence[entity.start : entity.end] for entity in (subject, obj)]
    prefix = "".join(f"{text} {separator} " for text in before)
    second = len(before[0]) + len(separator) + 2
    spans = [(0, len(before[0])), (second, second + len(before[1]))]
    spans += [(len(prefix) + entity.start, len(prefix) + entity.end) for entity in (subject, obj)]
    return MarkedText(text=prefix + sentence, subject=0, object=second, spans=tuple(spans))


@dataclass(frozen=True, slots=True)
class _Where:
    """Names a row: the file and the number of the data row in it."""

    content: Content
    index: int

    def __str__(self) -> str:
        return f"{self._path}: data row {self.content.rows[self.index]}"

    @property
    def _path(self) -> Path:
        spec, content = self.content.spec, self.content
        num_extra = content.num_extra if isinstance(content, Dataset) else 0
        is_extra = self.index >= len(content.rows) - num_extra
        return spec.extra if is_extra and spec.extra is not None else spec.path


def _read(row: dict[str, str], *, spec: RelationSpec, form: Form, where: _Where) -> Relation:
    sentence = row[spec.sentence]
    entities: dict[Role, Entity] = {}
    for role, column in zip(ROLES, (spec.subject, spec.object), strict=True):
        first, last = (_whole_number(row, f"{column}_{part}", where=where) for part in ("start", "end"))
        end = last + spec.end_inclusive
        said = f"{where}: the {role}'s span {first} to {last}"
        if not first < end <= len(sentence):
            raise DataError(f"{said} is empty or out of range; the sentence has {len(sentence)} characters")
        if sentence[first:end] != row[column]:
            other = sentence[first : last + (not spec.end_inclusive)]
            hint = f"; data.relation.end_inclusive {str(not spec.end_inclusive).lower()} would fit"
            raise DataError(
                f"{said} holds {sentence[first:end]!r}, expected {row[column]!r} as in column {column!r}"
                f"{hint if other == row[column] else ''}"
            )
        kind = row[f"{column}_type"].strip()
        if form in TYPED and not kind:
            raise DataError(f"{where}: column '{column}_type' is empty; model.entity_form {form} needs a type")
        entities[role] = Entity(first, end, kind)
    return Relation(sentence, **entities)


def _check_types(relations: Iterable[Relation], content: Content, *, known: Collection[str]) -> None:
    for index, relation in enumerate(relations):
        for role, entity in _entities(relation):
            if entity.type not in known:
                raise DataError(
                    f"{_Where(content, index)}: the {role} is of type {entity.type!r}, which the model never saw; "
                    f"expected one of {', '.join(map(repr, known))}"
                )


def _whole_number(row: dict[str, str], column: str, *, where: _Where) -> int:
    cell = row[column].strip()
    if not (cell.isascii() and cell.isdigit()):
        raise DataError(f"{where}: column {column!r} holds {row[column]!r}, expected a whole number from 0")
    return int(cell)


def _entities(relation: Relation) -> tuple[tuple[Role, Entity], tuple[Role, Entity]]:
    return ("subject", relation.subject), ("object", relation.object)


def _signs(role: Role, kind: str, *, form: Form) -> tuple[str, str]:
    """Return what is put before and after an entity."""
    if form == "typed_punctuation":
        outer, inner = ("@", "*") if role == "subject" else ("#", "^")
        return f"{outer} {inner} {kind} {inner}", outer
    name = {"subject": "S", "object": "O"}[role] + (f":{kind}" if form == "typed_markers" else "")
    return f"[{name}]", f"[/{name}]"


def _insert(relation: Relation, *, form: Form) -> MarkedText:
    insertions = []
    for number, (role, entity) in enumerate(_entities(relation)):
        opening, closing = _signs(role, entity.type, form=form)
        # In one place the closing ones come first; of openings the outer one, of closings the inner one.
        insertions.append(((entity.start, 1, -entity.end, number), role, f"{opening} "))
        insertions.append(((entity.end, 0, -entity.start, -number), role, f" {closing}"))
    text, copied = "", 0
    places: dict[Role, list[int]] = {"subject": [], "object": []}
    for (place, is_opening, *_), role, sign in sorted(insertions):
        text += relation.sentence[copied:place]
        copied = place
        places[role].append(len(text) if is_opening else len(text) + len(sign))
        text += sign
    subject, obj = ((start, end) for start, end in places.values())
    return MarkedText(text=text + relation.sentence[copied:], subject=subject[0], object=obj[0], spans=(subject, obj))
