"""The model card: README.md of an exported model, for people who did not train it."""

import re
import statistics
from collections.abc import Iterator

from fold_search.objectives.data.names import class_name
from fold_search.objectives.predicting.baseline import BaselineDescription
from fold_search.objectives.predicting.exported import Described, Description
from fold_search.search.terminal import visible

_FORMS = {
    "ensemble": "The mean of {members} models. Each was trained on all folds of the data but one.",
    "refit": "One model, trained on all rows, so no rows were left to validate it. It was trained for {epochs} epochs, "
    "the median of the folds' best epochs.",
    "fold": "One model: that of the fold with the best score. As the best of several, this score is too optimistic.",
}

_USE = """\
## Use

```
search predict --model FOLDER data.csv --out predictions.csv
search evaluate --model FOLDER test.csv
```
"""

_PLAIN = """\
Each sub-folder is an encoder that `transformers.AutoModel.from_pretrained` can load, with its {reader}. If that adds a
pooler, the pooler does not belong to the model. `head.safetensors` has the layers after the encoder. No file contains
code or pickles.
"""

_SHARED = """\
The sub-folder `{base}` is an encoder that `transformers.AutoModel.from_pretrained` can load, with its {reader}. If that
adds a pooler, the pooler does not belong to the model. `head.safetensors` has the layers after the encoder. Most
weights were not trained and are the same in all models: the other sub-folders contain only the weights that differ from
`{base}`. No file contains code or pickles.
"""

_CHOSEN = """ This trial was chosen as the best of a search, so its scores
  are somewhat too good."""
_NOT = """\
## Limits

- It knows only the classes below. Every row gets one of them, even if none fits.
- The scores are estimates for rows like the training data.{chosen}
  A test file that was never used gives a better estimate (`search evaluate`).
- The probabilities are calibrated for the class shares of the training data. Other shares need a correction.
"""


_TERMS = """\
No file contains code or pickles. `terms.json` lists the terms that are counted, `head.safetensors` has the weight of
each (`idf`) and those of the classes (`weights`, `intercepts`).
"""


def model_card(description: Described) -> str:
    """Return the card as Markdown."""
    return "\n".join(_parts(description))


def _parts(description: Described) -> Iterator[str]:
    what = f"{len(description.label_names)} classes" if description.task == "classification" else "a number"
    members = description.members
    yield f"# {as_markdown(description.study)}: {description.data.kind}s into {what}\n"
    yield from _origin(description)
    yield "## Scores\n"
    scores, metric = description.fold_scores, description.goal.metric
    spread = ""
    if len(scores) > 1:
        spread = f" ± {statistics.stdev(scores):.4f} (mean and standard deviation over {len(scores)} folds: "
        spread += ", ".join(f"{score:.4f}" for score in scores) + ")"
    yield f"{metric} on the rows that each fold did not train on: {statistics.fmean(scores):.4f}{spread}.\n"
    yield "The scores of all these rows together (pooled):\n\n| metric | score |\n| --- | --- |"
    yield "\n".join(f"| {name} | {score:.4f} |" for name, score in description.pooled.items()) + "\n"
    yield _USE
    yield f"The file needs the {_columns(description)}. `search predict` needs no labels.\n"
    if isinstance(description, BaselineDescription):
        yield _TERMS
        yield _NOT.format(chosen="")
    else:
        reader = "image processor" if description.data.kind == "image" else "tokenizer"
        yield (_SHARED if members[-1].base else _PLAIN).format(reader=reader, base=members[-1].base)
        yield _NOT.format(chosen=_CHOSEN)
    if description.task == "classification":
        yield "## Classes\n\n| class | rows trained on, by model |\n| --- | --- |"
        for name, *counts in zip(description.label_names, *(member.class_counts for member in members), strict=True):
            yield f"| {as_markdown(class_name(name))} | {', '.join(map(str, counts))} |"
        yield f"\nProbabilities are calibrated with temperature {description.temperature:.3f}.\n"
    yield "## Made with\n\n" + ", ".join(f"{name} {version}" for name, version in description.packages.items()) + "\n"


def _origin(description: Described) -> Iterator[str]:
    """What was trained, and on what."""
    members = description.members
    if isinstance(description, BaselineDescription):
        form = _FORMS[description.form].partition(" It was trained for")[0].format(members=len(members))
        yield f"**A baseline**: {description.label}, which no encoder was trained for. {form}\n"
        if description.note:
            yield f"It was trained {description.note}.\n"
    elif isinstance(description, Description):
        form = _FORMS[description.form].format(members=len(members), epochs=members[0].epochs)
        yield f"{form} Trial {description.trial} of the study; encoder `{description.params.model.encoder}`.\n"
        if description.provisional:
            yield (
                f"**Provisional**: the trial is not complete; {description.provisional}. The scores below are of that "
                "part alone. When the search goes on it finds a better model.\n"
            )


def _columns(description: Described) -> str:
    names = [f'"{as_markdown(name)}"' for name in description.data.columns]
    return f"column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def as_markdown(name: str) -> str:
    """A name from a file or a user as Markdown that shows it, on one line and with no markup, whatever it holds."""
    return re.sub(r"([\\`*_\[\]<>&|])", r"\\\1", " ".join(visible(name).split()))
