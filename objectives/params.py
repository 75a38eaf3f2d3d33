"""The training parameters that can be set or searched, and all settings of one trial together."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from fold_search.models.params import ModelParams, Section, searchable
from fold_search.objectives.loss_params import REGRESSION_LOSSES, SMOOTHABLE, LossParams

TOKEN_CHANGES = ("token_deletion", "token_swap", "token_masking", "token_replacement")


class OptimiserParams(Section):
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


class SamplerParams(Section):
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


class AugmentationParams(Section):
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
