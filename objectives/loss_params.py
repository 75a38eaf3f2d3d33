"""The losses, and the parameters of each that can be set or searched."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from fold_search.models.params import Section, searchable

SMOOTHABLE = ["cross_entropy", "focal", "ldam", "logit_adjusted", "kl_divergence"]  # can have smoothed labels
WEIGHTED = ["cross_entropy", "focal", "ldam"]  # can have class weights
REGRESSION_LOSSES = ("mse", "mae", "huber")


def _as_one_of(expected: str) -> WrapValidator:
    """Refuse a value of several possible forms with one error instead of one for each form."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("unmet", "expected {expected}", {"expected": expected}) from None

    return WrapValidator(check)


_WEIGHTS = _as_one_of("none, inverse_frequency, class_balanced, {label: weight} or, with two classes, one number")
_PRIOR = _as_one_of("uniform, class_frequency or {label: share}")


class LossParams(Section):
    """The loss."""

    loss: Literal[
        "cross_entropy", "focal", "dice", "ldam", "logit_adjusted", "kl_divergence", "mse", "mae", "huber"
    ] = searchable(
        "cross_entropy",
        "The training loss. cross_entropy: with class_weights it is weighted cross entropy or the class-balanced loss. "
        "dice: self-adjusting Dice loss. ldam: larger margins for rarer classes, on a cosine head. logit_adjusted: "
        "adds the log of the class frequencies to the logits during training. kl_divergence: from the smoothed "
        "target. mse, mae, huber: for a numeric label.",
        suggest=["cross_entropy", "focal", "logit_adjusted"],
        source="focal: Lin et al. 2017; dice: Li et al. 2020; ldam: Cao et al. 2019; logit_adjusted: Menon et al. 2021",
    )
    label_smoothing: float = searchable(
        0.0,
        "Share of the target probability that is spread over all classes, evenly or by smoothing_prior.",
        suggest={"low": 0.0, "high": 0.2},
        when={"loss": SMOOTHABLE},
        source="Szegedy et al. 2016",
        ge=0.0,
        lt=1.0,
    )
    class_weights: Annotated[
        Literal["none", "inverse_frequency", "class_balanced"] | float | dict[str, float], _WEIGHTS
    ] = searchable(
        "none",
        "One weight per class (alpha in focal loss). inverse_frequency, class_balanced: from the class counts of the "
        "training rows, with a mean of 1 per row. Or your own: {label: weight}. With two classes also one number: the "
        "weight of the rarer class; the other class gets 1 minus that weight. With ldam, used only after deferral.",
        suggest=["none", "inverse_frequency", "class_balanced"],
        when={"loss": WEIGHTED},
        source="Cui et al. 2019; Lin et al. 2017",
    )
    class_balanced_beta: float = searchable(
        0.999,
        "Beta of the class-balanced weights (1 - beta) / (1 - beta^n) for n rows; 0: equal weights.",
        suggest=[0.9, 0.99, 0.999, 0.9999],
        when={"class_weights": ["class_balanced"]},
        source="Cui et al. 2019",
        ge=0.0,
        lt=1.0,
    )
    focal_gamma: float = searchable(
        2.0,
        "Focal loss: how much less easy rows count; 0 is cross entropy.",
        suggest={"low": 0.5, "high": 4.0},
        when={"loss": ["focal"]},
        source="Lin et al. 2017",
        ge=0.0,
        le=10.0,
    )
    dice_alpha: float = searchable(
        0.01,
        "Dice loss: how much less easy rows count: (1 - p)^alpha * p is used instead of p.",
        suggest=[0.0, 0.01, 0.1],
        when={"loss": ["dice"]},
        source="Li et al. 2020",
        ge=0.0,
        le=10.0,
    )
    dice_smoothing: float = searchable(
        1.0,
        "Dice loss: this is added to numerator and denominator, so that classes absent from a batch count too.",
        suggest=[0.1, 1.0],
        when={"loss": ["dice"]},
        source="Li et al. 2020",
        gt=0.0,
        le=100.0,
    )
    ldam_margin: float = searchable(
        0.5,
        "LDAM: the margin of the rarest class, as a cosine. Other margins shrink with the fourth root of a class's "
        "rows.",
        suggest={"low": 0.1, "high": 0.7},
        when={"loss": ["ldam"]},
        source="Cao et al. 2019",
        ge=0.0,
        le=2.0,
    )
    ldam_scale: float = searchable(
        30.0,
        "LDAM: the cosines are multiplied by this to give logits.",
        suggest=[10.0, 20.0, 30.0],
        when={"loss": ["ldam"]},
        source="Cao et al. 2019",
        gt=0.0,
        le=1000.0,
    )
    deferral: float = searchable(
        0.8,
        "LDAM: class_weights are used only after this share of the epochs (deferred re-weighting).",
        suggest=[0.5, 0.8],
        when={"loss": ["ldam"]},
        source="Cao et al. 2019",
        ge=0.0,
        le=1.0,
    )
    adjustment_tau: float = searchable(
        1.0,
        "Logit adjustment: the log of the class frequencies is multiplied by this; 0 is cross entropy.",
        suggest={"low": 0.5, "high": 1.5},
        when={"loss": ["logit_adjusted"]},
        source="Menon et al. 2021",
        ge=0.0,
        le=10.0,
    )
    smoothing_prior: Annotated[Literal["uniform", "class_frequency"] | dict[str, float], _PRIOR] = searchable(
        "uniform",
        "KL divergence: how label_smoothing is spread over the classes: uniform, by their frequency in the training "
        "rows, or by your own shares {label: share}.",
        suggest=["uniform", "class_frequency"],
        when={"loss": ["kl_divergence"]},
    )
    huber_delta: float = searchable(
        1.0,
        "Huber loss: errors above this many standard deviations of the label count linearly, smaller ones squared.",
        suggest=[0.5, 1.0, 2.0],
        when={"loss": ["huber"]},
        source="Huber 1964",
        gt=0.0,
        le=100.0,
    )
    rdrop_alpha: float = searchable(
        0.0,
        "R-Drop: weight of the divergence between two passes with different dropout. Training costs twice; 0: off.",
        suggest=[0.0, 0.5, 1.0, 5.0],
        source="Liang et al. 2021",
        ge=0.0,
        le=100.0,
    )

    @property
    def cosine_scale(self) -> float | None:
        """What the head multiplies its cosines by; None: it is linear."""
        return self.ldam_scale if self.loss == "ldam" else None
