"""What a study file says of single text columns, against the columns that it reads."""

from collections.abc import Mapping

from fold_search.models.params import ModelParams
from fold_search.objectives.data.spec import DataSpec
from fold_search.search.study.parameters import Choices, Range
from fold_search.search.study.wording import suggestion, unmet

OF_COLUMNS = ("column_max_length", "column_dropout")


def check_columns(data: DataSpec, model: ModelParams, space: Mapping[str, Range | Choices]) -> None:
    """Raise pydantic's error for a column ensemble of fewer than two, or settings of a column that is not read."""
    domain = space.get("architecture")
    if "columns" in (domain.ends() if domain else [model.architecture]) and len(data.text) < 2:
        expected = "two columns or more, because the architecture is columns"
        raise unmet(expected, path=("data", "text"), found=list(data.text))
    for field in OF_COLUMNS:
        for name in getattr(model, field):
            if name not in data.text:
                hint = suggestion(name, data.text) if data.text else "there are none"
                raise unmet(f"a column of data.text; {hint}", path=("model", field), found=name)
