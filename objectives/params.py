"""The training parameters that can be set or searched, and all settings of one trial together."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from fold_search.models.params import ModelParams, searchable

SMOOTHABLE = ["cross_entropy", "focal", "ldam", "logit_adjusted", "kl_divergence"]
REGRESSION_LOSSES = ("mse", "mae", "huber")
TOKEN_CHANGES = ("token_deletion", "token_swap", "token_masking", "token_replacement")


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


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimiserParams(_Section):
    """How the weights are moved: steps, optimiser, learning rates."""

    epochs: int = searchable(4, "Passes over the training rows.", suggest={"low": 3, "high": 10}, ge=1, le=1000)
    patience: int | None = searchable(
        None,
        "A fold ends early after this many epochs without a better score; null: all epochs are trained.",
        source="Prechelt 1998",
        ge=1,
        le=1000,
    )
    batch_size: int = searchable(16, "Rows per forward pass.", suggest=[8, 16, 32], ge=1, le=4096)
    accumulation_steps: int = searchable(1, "Forward passes per optimiser step.", ge=1, le=1024)
    optimiser: Literal["adamw", "sgd", "schedule_free_adamw"] = searchable(
        "adamw",
        "The optimiser. schedule_free_adamw needs no learning rate schedule: it averages the weights instead.",
        suggest=["adamw", "schedule_free_adamw"],
        source="Loshchilov and Hutter 2019; Defazio et al. 2024",
    )
    learning_rate: float = searchable(
        5e-5,
        "The peak learning rate. SGD needs at least 100 times the rate of AdamW.",
        suggest={"low": 1e-5, "high": 1e-3, "log": True},
        gt=0.0,
        le=10.0,
    )
    layer_decay: float = searchable(
        1.0,
        "Each encoder layer's learning rate is this times that of the layer above it; 1: the same for all.",
        suggest={"low": 0.7, "high": 1.0},
        source="Howard and Ruder 2018",
        gt=0.0,
        le=1.0,
    )
    momentum: float = searchable(
        0.9,
        "Momentum of SGD.",
        suggest=[0.8, 0.9, 0.95],
        when={"optimiser": ["sgd"]},
        source="Sutskever et al. 2013",
        ge=0.0,
        lt=1.0,
    )
    weight_decay: float = searchable(
        0.01,
        "Weight decay: decoupled, except with SGD. Biases and normalisation weights have none.",
        suggest={"low": 0.0, "high": 0.1},
        source="Loshchilov and Hutter 2019",
        ge=0.0,
        le=1.0,
    )
    schedule: Literal["constant", "linear", "cosine", "cosine_restarts", "step", "plateau"] = searchable(
        "linear",
        "The learning rate after the warm-up. linear, cosine: falls until the last epoch. cosine_restarts (SGDR): "
        "falls in cycles, and each cycle starts at the peak again. step: falls every decay_epochs. plateau: falls when "
        "the validation score stops improving.",
        suggest=["linear", "cosine", "cosine_restarts"],
        when={"optimiser": ["adamw", "sgd"]},
        source="Loshchilov and Hutter 2017",
    )
    restart_epochs: int = searchable(
        1,
        "cosine_restarts: epochs of the first cycle.",
        suggest=[1, 2, 3],
        when={"schedule": ["cosine_restarts"]},
        source="Loshchilov and Hutter 2017",
        ge=1,
        le=1000,
    )
    restart_factor: int = searchable(
        2,
        "cosine_restarts: each cycle is this many times as long as the one before.",
        suggest=[1, 2],
        when={"schedule": ["cosine_restarts"]},
        source="Loshchilov and Hutter 2017",
        ge=1,
        le=10,
    )
    decay_epochs: int = searchable(
        2,
        "step: epochs between two falls of the learning rate.",
        suggest=[1, 2, 3],
        when={"schedule": ["step"]},
        ge=1,
        le=1000,
    )
    decay_factor: float = searchable(
        0.5,
        "step and plateau: the learning rate is multiplied by this at each fall.",
        suggest=[0.1, 0.3, 0.5],
        when={"schedule": ["step", "plateau"]},
        gt=0.0,
        lt=1.0,
    )
    plateau_patience: int = searchable(
        1,
        "plateau: the learning rate falls after more than this many epochs without a better score.",
        suggest=[0, 1, 2],
        when={"schedule": ["plateau"]},
        ge=0,
        le=1000,
    )
    warmup_ratio: float = searchable(
        0.1,
        "Share of the optimiser steps that are warm-up, in which the learning rate rises from 0.",
        suggest={"low": 0.0, "high": 0.2},
        ge=0.0,
        lt=1.0,
    )
    warmup_steps: int | None = searchable(None, "Number of warm-up steps; null: warmup_ratio decides.", ge=0)
    min_learning_rate: float = searchable(0.0, "The lowest learning rate after the warm-up.", ge=0.0)
    gradient_clip: float | None = searchable(
        1.0, "Gradients are clipped to this norm (of all together); null: no clipping.", gt=0.0
    )
    ema_decay: float | None = searchable(
        None,
        "Scores, predictions and the model use a moving average of the weights with this decay; null: no averaging.",
        suggest=[0.99, 0.999],
        source="Polyak and Juditsky 1992",
        gt=0.0,
        lt=1.0,
    )
    precision: Literal["auto", "fp32", "bf16"] = searchable(
        "auto", "auto: bf16 autocast on CUDA devices that support it, else fp32."
    )


class LossParams(_Section):
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
        when={"loss": ["cross_entropy", "focal", "ldam"]},
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


class SamplerParams(_Section):
    """How a fold's training rows are resampled."""

    sampler: Literal[
        "none",
        "random_over",
        "minority_over",
        "random_under",
        "near_miss",
        "tomek_links",
        "enn",
        "smote",
        "smote_enn",
        "class_balanced_batches",
    ] = searchable(
        "none",
        "How the training rows of a fold are resampled. Validation rows never are. near_miss, tomek_links, enn, smote "
        "and smote_enn find neighbours by the frozen encoder's mean-pooled embeddings. A synthetic row of smote is a "
        "mix of two rows after pooling. class_balanced_batches draws new rows in each epoch, every class equally "
        "often.",
        suggest=["none", "random_over", "minority_over", "random_under", "enn", "smote", "class_balanced_batches"],
        source="Lemaitre et al. 2017; Chawla et al. 2002 (smote); Batista et al. 2004 (smote_enn); Wilson 1972 (enn)",
    )
    sampler_ratio: float = searchable(
        0.5,
        "minority_over, smote, smote_enn: smaller classes grow to this share of the largest class. random_under, "
        "near_miss: larger classes are cut until the smallest class is this share of them.",
        suggest={"low": 0.1, "high": 1.0},
        when={"sampler": ["minority_over", "random_under", "near_miss", "smote", "smote_enn"]},
        gt=0.0,
        le=1.0,
    )
    sampler_neighbors: int = searchable(
        3,
        "Number of nearest neighbours. enn, smote_enn: a row is removed if its class is not the most common among "
        "them. smote: one of them, of the same class, is mixed in. near_miss: the rows closest to that many rows of "
        "the smallest class stay.",
        suggest=[3, 5],
        when={"sampler": ["near_miss", "enn", "smote", "smote_enn"]},
        ge=1,
        le=50,
    )
    sampler_min_rows: int = searchable(
        0,
        "near_miss, tomek_links, enn and smote_enn remove no rows of classes with fewer training rows than this, and "
        "random_under does not take such a class as the smallest.",
        when={"sampler": ["random_under", "near_miss", "tomek_links", "enn", "smote_enn"]},
        ge=0,
    )


class AugmentationParams(_Section):
    """How the tokens of training rows are changed at random, differently in each epoch."""

    token_deletion: float = searchable(
        0.0,
        "Probability that a token of a training row is deleted.",
        suggest={"low": 0.0, "high": 0.2},
        source="Wei and Zou 2019",
        ge=0.0,
        le=0.9,
    )
    token_swap: float = searchable(
        0.0,
        "Probability that a token of a training row is swapped with another one.",
        suggest={"low": 0.0, "high": 0.2},
        source="Wei and Zou 2019",
        ge=0.0,
        le=0.9,
    )
    token_masking: float = searchable(
        0.0,
        "Probability that a token of a training row is replaced by the mask token.",
        suggest={"low": 0.0, "high": 0.2},
        ge=0.0,
        le=0.9,
    )
    token_replacement: float = searchable(
        0.0,
        "Probability that a token of a training row is replaced by a guess of the encoder's masked-language-model "
        "head. The encoder must have such a head.",
        source="Wu et al. 2019",
        ge=0.0,
        le=0.9,
    )
    image_augmentation: float = searchable(
        0.0,
        "Probability of each change of a training image: flip, rotation, crop, colour.",
        source="Shorten and Khoshgoftaar 2019",
        ge=0.0,
        le=0.9,
    )
    minority_augmentation: float = searchable(
        1.0,
        "For the smallest class the probabilities above are multiplied by this; for the largest class they stay; for "
        "classes between, by the log of their number of rows.",
        suggest=[1.0, 2.0, 4.0],
        ge=1.0,
        le=100.0,
    )


class TrainingParams(AugmentationParams, SamplerParams, LossParams, OptimiserParams):
    """How one fold is trained, as the study file's `training:` section or one trial of it."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.label_smoothing > 0 and self.loss not in SMOOTHABLE:
            why = "Dice compares sets of rows, and a smoothed target is none"
            if self.loss in REGRESSION_LOSSES:
                why = "a numeric label has no classes to spread the target over"
            raise ValueError(
                f"label_smoothing {self.label_smoothing:g} cannot go with loss {self.loss}: {why}; expected 0"
            )
        if self.ema_decay is not None and self.optimiser == "schedule_free_adamw":
            raise ValueError("ema_decay cannot go with schedule_free_adamw, which averages the weights itself")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate:g} is above learning_rate {self.learning_rate:g}; "
                "expected at most that"
            )
        return self


class Params(BaseModel):
    """All settings of one trial's training, apart from the rows and the seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelParams
    training: TrainingParams

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        model = self.model
        if model.lora_rank is not None and model.trainable_layers is not None:
            raise ValueError(
                f"lora_rank {model.lora_rank} cannot go with trainable_layers {model.trainable_layers}: low-rank "
                "updates are trained in place of the encoder's own weights; expected one of them to be null"
            )
        if model.lora_rank is not None and model.reinit_layers > 0:
            raise ValueError(
                f"reinit_layers {model.reinit_layers} cannot go with lora_rank {model.lora_rank}: layers begun anew "
                "would stay random beneath their low-rank updates; expected 0"
            )
        if model.trainable_layers is not None and model.reinit_layers > model.trainable_layers:
            raise ValueError(
                f"reinit_layers {model.reinit_layers} is above trainable_layers {model.trainable_layers}: layers begun "
                "anew would stay random; expected at most that"
            )
        changed = [name for name in (*TOKEN_CHANGES, "image_augmentation") if getattr(self.training, name) > 0]
        if changed and model.trainable_layers == 0:
            raise ValueError(
                f"{changed[0]} cannot go with trainable_layers 0: the head alone is trained on the frozen encoder's "
                "states, which are computed once; expected 0, or trainable_layers of 1 or more"
            )
        return self
