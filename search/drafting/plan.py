"""What `search init` proposes for the data that was surveyed: folds, lengths, ranges to search."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fold_search.models.params import ColumnsParams, ImageParams, RelationParams
from fold_search.objectives.loss_params import REGRESSION_LOSSES
from fold_search.objectives.params import TOKEN_CHANGES
from fold_search.search.drafting.fitting import Fit
from fold_search.search.drafting.forecast import EMBEDDING, Load, mean_growth
from fold_search.search.drafting.survey import Survey
from fold_search.search.drafting.ways import RANDOM_RATES, WAYS, Way
from fold_search.search.study.checks import NOT_FOR_IMAGES
from fold_search.search.study.parameters import PARAMETERS, Choices, Parameter, Range

TRIALS = 30

_IMBALANCED = 3.0
_MANY_ROWS = 50_000
_MOST_TOKENS = 256
_MOST_PIXELS = 224
_MOST_GROWTH = 4.0
_FEWEST_TO_CUT = 50
_OF_KIND = {
    "text": set(ColumnsParams.model_fields),
    "relation": set(RelationParams.model_fields),
    "image": {*ImageParams.model_fields, "image_augmentation"},
}
_MINOR_WHY = "Not searched, because their effect is usually smaller:"
_CONDITIONAL_WHY = "Not searched, because they need other settings than those above:"
_MINOR = (
    "pooling",
    "optimiser",
    "layer_decay",
    "weight_decay",
    "schedule",
    "warmup_ratio",
    "ema_decay",
    "rdrop_alpha",
    "token_deletion",
    "token_swap",
    "token_masking",
    "minority_augmentation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What follows from a survey, and from what was measured of an encoder, for the whole study file."""

    found: Survey
    encoder: str | None = None  # None: the usual one for such data
    fit: Fit | None = None  # None: nothing was measured
    seconds: float | None = None  # the time that the search may take

    @property
    def way(self) -> Way:
        """What of the encoder is trained."""
        return self.fit.way if self.fit else WAYS["whole"]

    @property
    def starts_random(self) -> bool:
        """Whether the encoder starts from random weights."""
        return (self.encoder or "").startswith("config:")

    @property
    def trials(self) -> int:
        """The budget."""
        return self.fit.shape.trials if self.fit else TRIALS

    @property
    def num_folds(self) -> int:
        """As many as fit the time, or as the rows allow."""
        return self.fit.shape.num_folds if self.fit else self.most_folds

    @property
    def most_folds(self) -> int:
        """5 if the smallest class has a row for each fold and rows are not too many; else 3, at worst 2."""
        wanted = 5 if self.smallest >= 5 and self.found.num_rows <= _MANY_ROWS else 3
        return max(2, min(wanted, max(self.found.distinct.values(), default=self.found.num_texts)))

    @property
    def max_length(self) -> int:
        """Tokens that hold 95% of the texts, up to what a CPU reads in good time."""
        if self.fit:
            return self.fit.shape.max_length
        return min(_MOST_TOKENS, 32 * math.ceil(self.found.lengths["tokens"].most / 32))

    @property
    def image_size(self) -> int:
        """Pixels that hold 95% of the images, up to what most pretrained encoders read."""
        longer = max(self.found.lengths[side].most for side in ("width", "height"))
        return min(_MOST_PIXELS, 32 * math.ceil(longer / 32))

    @property
    def most_epochs(self) -> int:
        """Epochs of all fold runs together, where none is stopped."""
        epochs = propose(self)["epochs"].domain.values() or [1]
        return self.trials * self.num_folds * int(str(epochs[-1]))

    @property
    def load(self) -> Load:
        """What the proposed samplers and the rows make of every epoch."""
        load = Load(num_rows=self.found.num_rows, most_folds=self.most_folds)
        proposals = propose(self)
        if "sampler" not in proposals or not proposals["sampler"].searched:
            return load
        samplers = [str(name) for name in proposals["sampler"].domain.values() or []]
        ratios = [float(str(ratio)) for ratio in proposals["sampler_ratio"].domain.ends()]
        growth = mean_growth(list(self.found.classes.values()), samplers, (ratios[0], ratios[-1]))
        return replace(load, growth=growth, embeds=not EMBEDDING.isdisjoint(samplers))

    @property
    def training_rows(self) -> int:
        """Rows that one fold run trains on."""
        return self._in_training(self.found.num_rows)

    @property
    def smallest(self) -> int:
        """Distinct rows of the smallest class, or of all where the label is a number."""
        return min(self.found.distinct.values(), default=self.found.num_texts)

    @property
    def spare(self) -> list[int]:
        """Rows of each class that has enough training rows to lose some, the largest class first."""
        return [count for count in self.found.classes.values() if self._in_training(count) >= _FEWEST_TO_CUT]

    @property
    def sampler_min_rows(self) -> int:
        """Classes with fewer training rows lose none; 0 if no sampler that removes rows is proposed."""
        removing = set(PARAMETERS["sampler_min_rows"].when["sampler"])
        proposals = propose(self)
        removes = "sampler" in proposals and not removing.isdisjoint(proposals["sampler"].domain.values() or [])
        return _FEWEST_TO_CUT if removes and len(self.spare) < len(self.found.classes) else 0

    def _in_training(self, count: int) -> int:
        return count * (self.num_folds - 1) // self.num_folds

    def growth(self, ratio: float) -> float:
        """How many times longer an epoch gets when small classes are repeated up to `ratio` of the largest."""
        counts = list(self.found.classes.values())
        return sum(max(count, ratio * counts[0]) for count in counts) / sum(counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The range or choices of one parameter, and why.

    What is not searched is written as a comment, under the heading `group` if it has one.
    """

    domain: Range | Choices
    why: str = ""
    searched: bool = True
    group: str = ""


def propose(plan: Plan) -> dict[str, Proposal]:
    """Fit what the fields declare as searchable to the data; raises nothing."""
    proposals: dict[str, Proposal] = {}
    for name, parameter in PARAMETERS.items():
        if parameter.suggested is None or not concerns(parameter, plan):
            continue
        proposal = _RULES.get(name, _as_declared)(plan, parameter.suggested)
        if name in _MINOR:
            proposal = replace(proposal, searched=False, why="", group=_MINOR_WHY)
        if not all(_is_offered(other, proposals[other], values) for other, values in parameter.when.items()):
            needs = " and ".join(f"{other}: {' or '.join(values)}" for other, values in parameter.when.items())
            proposal = replace(proposal, searched=False, why=f"Only with {needs}.", group=_CONDITIONAL_WHY)
        proposals[name] = proposal
    return proposals


def concerns(parameter: Parameter, plan: Plan) -> bool:
    """Whether the parameter can have an effect on such data: its kind, its columns, classes or a numeric label."""
    spec, numeric = plan.found.spec, plan.found.spec.task == "regression"
    if any(parameter.name in names for kind, names in _OF_KIND.items() if kind != spec.kind):
        return False
    if plan.way.name == "head" and parameter.name in (*TOKEN_CHANGES, "minority_augmentation", "layer_decay"):
        return False
    if spec.kind == "image" and parameter.name in (*NOT_FOR_IMAGES, "max_length", "lora_alpha", "lora_targets"):
        return False
    if parameter.name in ColumnsParams.model_fields and len(spec.text) < 2:
        return False
    if numeric and parameter.name in ("sampler", "minority_augmentation"):
        return False
    losses = parameter.when.get("loss")
    if losses and not any((loss in REGRESSION_LOSSES) == numeric for loss in losses):
        return False
    return all(concerns(PARAMETERS[other], plan) for other in parameter.when)


def _is_offered(name: str, proposal: Proposal, values: list[str]) -> bool:
    offered = proposal.domain.ends() if proposal.searched else [PARAMETERS[name].field.default]
    return any(value in values for value in offered)


def _as_declared(plan: Plan, suggested: Any) -> Proposal:
    return Proposal(domain=suggested)


def _epochs(plan: Plan, suggested: Any) -> Proposal:
    steps = max(1, plan.training_rows // 16)
    high = plan.fit.shape.epochs[1] if plan.fit else plan.way.epochs(steps)[1]
    why = f"An epoch has about {steps:,} steps; with fewer steps more epochs are needed."
    return Proposal(domain=Range(low=max(2, high // 2), high=high), why=why)


def _learning_rate(plan: Plan, suggested: Any) -> Proposal:
    low, high = RANDOM_RATES if plan.starts_random else plan.way.rates
    why = f"These are usual rates where {plan.way.words} is trained." if plan.fit else ""
    return Proposal(domain=Range(low=low, high=high, log=True), why=why)


def _batch_size(plan: Plan, suggested: Any) -> Proposal:
    fitting = [size for size in suggested.choices if 10 <= plan.training_rows / size <= 5000]
    nearest = min(suggested.choices, key=lambda size: abs(plan.training_rows / size - 1000))
    return Proposal(
        domain=Choices(choices=tuple(fitting or [nearest])), why="With these an epoch has 10 to 5,000 steps."
    )


def _loss(plan: Plan, suggested: Any) -> Proposal:
    if plan.found.spread:
        why = "mse gives outliers much weight, mae little; huber is between them."
        return Proposal(domain=Choices(choices=REGRESSION_LOSSES), why=why)
    if plan.found.imbalance < _IMBALANCED:
        return Proposal(domain=suggested, searched=False, group=_balanced(plan))
    return Proposal(domain=suggested, why="The classes are imbalanced, but plain cross entropy often wins.")


def _class_weights(plan: Plan, suggested: Any) -> Proposal:
    if plan.found.imbalance < _IMBALANCED:
        return Proposal(domain=suggested, searched=False, group=_balanced(plan))
    return Proposal(domain=suggested)


def _sampler(plan: Plan, suggested: Any) -> Proposal:
    if plan.found.imbalance < _IMBALANCED:
        return Proposal(domain=suggested, searched=False, group=_balanced(plan))
    unfit = _unfit_samplers(plan)
    offered = tuple(name for name in suggested.choices if name not in unfit)
    why = " ".join(f"Without {name}: {reason}." for name, reason in unfit.items())
    return Proposal(domain=Choices(choices=offered), why=why, searched=len(offered) > 1)


def _unfit_samplers(plan: Plan) -> dict[str, str]:
    """The samplers that do not suit the data, and why."""
    unfit = {}
    least = PARAMETERS["sampler_ratio"].declared["suggest"]["low"]
    for name, ratio in (("random_over", 1.0), ("minority_over", least), ("smote", least)):
        if plan.growth(ratio) > _MOST_GROWTH:
            unfit[name] = f"an epoch would take {plan.growth(ratio):.0f} times as long"
    if plan.starts_random:
        unfit |= dict.fromkeys(("enn", "smote"), "it compares rows by the encoder's states, which are random here")
    if not plan.spare or plan.spare[0] < _IMBALANCED * plan.spare[-1]:
        unfit["random_under"] = (
            f"no class is much larger than the smallest class with {_FEWEST_TO_CUT} or more training rows"
        )
    if not plan.spare:
        unfit["enn"] = (
            f"it can remove all rows of a class with fewer than {_FEWEST_TO_CUT} training rows, and all classes are so "
            "small"
        )
    return unfit


def _sampler_ratio(plan: Plan, suggested: Any) -> Proposal:
    percents = range(round(100 * suggested.low), round(100 * suggested.high) + 1)
    fitting = [percent / 100 for percent in percents if plan.growth(percent / 100) <= _MOST_GROWTH]
    if len(fitting) < 2:
        return Proposal(domain=suggested)
    why = f"With {fitting[-1]:g}, minority_over makes an epoch {plan.growth(fitting[-1]):.1f} times as long."
    return Proposal(domain=Range(low=fitting[0], high=fitting[-1]), why=why)


def _balanced(plan: Plan) -> str:
    times = f"{plan.found.imbalance:.1f} times"
    return f"Not searched, because the largest class has only {times} the rows of the smallest:"


_RULES: dict[str, Callable[[Plan, Any], Proposal]] = {
    "epochs": _epochs,
    "learning_rate": _learning_rate,
    "batch_size": _batch_size,
    "loss": _loss,
    "class_weights": _class_weights,
    "sampler": _sampler,
    "sampler_ratio": _sampler_ratio,
}
