"""The model card: README.md of an exported model, in words for people who did not train it."""

import re
import statistics
from collections.abc import Iterator

from fold_search.objectives.data.names import class_name
from fold_search.objectives.predicting.exported import Description
from fold_search.search.terminal import visible

_FORMS = {
    "ensemble": "The mean of {members} models, each trained on all but one fold of the data.",
    "refit": "One model, trained on all rows without any that it was validated on, for {epochs} epochs: as many as the "
    "folds' best ones were at the median.",
    "fold": "One model: that of the fold with the best score. The score is one of the best of several, and flatters.",
}

_USE = """\
## Use

```
search predict --model FOLDER data.csv --out predictions.csv
search evaluate --model FOLDER test.csv
```
"""

_PLAIN = """\
Each sub-folder is the encoder as `transformers.AutoModel.from_pretrained` loads it (a pooler that it makes up is not
the model's), with its {reader}; `head.safetensors` holds what comes after it. No file holds code or pickles.
"""

_SHARED = """\
The sub-folder `{base}` is the encoder as `transformers.AutoModel.from_pretrained` loads it (a pooler that it makes up
is not the model's), with its {reader}; `head.safetensors` holds what comes after it. Most weights were not trained, and
are the same in all models: the other sub-folders hold those that differ from `{base}`. No file holds code or pickles.
"""

_NOT = """\
## What it is not

- It knows the classes below and no others: every row gets one of them, whatever is in it.
- The scores are estimates for rows drawn as the training data was. For the trial that was chosen because it was the
  best of a search they are somewhat too good; a test file that nobody looked at says more (`search evaluate`).
- The probabilities are calibrated for the training data's shares of the classes; other shares need a correction.
"""


def model_card(description: Description) -> str:
    """Return the card as Markdown."""
    return "\n".join(_parts(description))


def _parts(description: Description) -> Iterator[str]:
    what = f"{len(description.label_names)} classes" if description.task == "classification" else "a number"
    members = description.members
    yield f"# {_text(description.study)}: {description.data.kind}s into {what}\n"
    form = _FORMS[description.form].format(members=len(members), epochs=members[0].epochs)
    yield f"{form} Trial {description.trial} of the study; encoder `{description.params.model.encoder}`.\n"
    yield "## Scores\n"
    scores, metric = description.fold_scores, description.goal.metric
    yield (
        f"{metric} on the rows that each fold was not trained on: {statistics.fmean(scores):.4f} "
        f"± {statistics.stdev(scores):.4f} (mean and standard deviation over {len(scores)} folds: "
        f"{', '.join(f'{score:.4f}' for score in scores)}).\n"
    )
    yield "All of these rows together:\n\n| metric | score |\n| --- | --- |"
    yield "\n".join(f"| {name} | {score:.4f} |" for name, score in description.pooled.items()) + "\n"
    yield _USE
    yield f"The file needs the {_columns(description)}; labels are not read by `search predict`.\n"
    reader = "image processor" if description.data.kind == "image" else "tokenizer"
    yield (_SHARED if members[-1].base else _PLAIN).format(reader=reader, base=members[-1].base)
    yield _NOT
    if description.task == "classification":
        yield "## Classes\n\n| class | rows trained on, by model |\n| --- | --- |"
        for name, *counts in zip(description.label_names, *(member.class_counts for member in members), strict=True):
            yield f"| {_text(class_name(name))} | {', '.join(map(str, counts))} |"
        yield f"\nProbabilities are taken at temperature {description.temperature:.3f}.\n"
    yield "## Made with\n\n" + ", ".join(f"{name} {version}" for name, version in description.packages.items()) + "\n"


def _columns(description: Description) -> str:
    names = [f'"{_text(name)}"' for name in description.data.columns]
    return f"column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _text(name: str) -> str:
    """A name from a file or a user as Markdown that shows it, on one line and with no markup, whatever it holds."""
    return re.sub(r"([\\`*_\[\]<>&|])", r"\\\1", " ".join(visible(name).split()))
