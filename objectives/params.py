"""What of the training can be set or searched, and the whole of one trial's settings."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from models.params import ModelParams, searchable


class TrainingParams(BaseModel):
    """How one fold is trained, as the study file's `training:` section or one trial of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = searchable(4, "Passes over the training rows.", suggest={"low": 3, "high": 10}, ge=1, le=1000)
    batch_size: int = searchable(16, "Rows of one forward pass.", suggest=[8, 16, 32], ge=1, le=4096)
    accumulation_steps: int = searchable(1, "Forward passes of one optimiser step.", ge=1, le=1024)
    learning_rate: float = searchable(
        5e-5, "AdamW's peak learning rate.", suggest={"low": 1e-5, "high": 1e-3, "log": True}, gt=0.0, le=1.0
    )
    weight_decay: float = searchable(
        0.01,
        "Decoupled weight decay; never on biases and normalisation weights.",
        suggest={"low": 0.0, "high": 0.1},
        source="Loshchilov and Hutter 2019",
        ge=0.0,
        le=1.0,
    )
    schedule: Literal["linear", "cosine"] = searchable(
        "linear", "How the learning rate falls to 0 after the warm-up.", suggest=["linear", "cosine"]
    )
    warmup_ratio: float = searchable(
        0.1,
        "Share of the optimiser steps in which the learning rate rises from 0.",
        suggest={"low": 0.0, "high": 0.2},
        ge=0.0,
        lt=1.0,
    )
    gradient_clip: float | None = searchable(1.0, "Largest norm of all gradients together; null does not clip.", gt=0.0)
    label_smoothing: float = searchable(
        0.0,
        "Share of the target that is spread evenly over all classes.",
        suggest={"low": 0.0, "high": 0.2},
        source="Szegedy et al. 2016",
        ge=0.0,
        lt=1.0,
    )
    loss: Literal["cross_entropy", "focal"] = searchable(
        "cross_entropy", "The training loss.", suggest=["cross_entropy", "focal"], source="Lin et al. 2017"
    )
    focal_gamma: float = searchable(
        2.0,
        "Focal loss: how strongly easy rows are played down; 0 is cross entropy.",
        suggest={"low": 0.5, "high": 4.0},
        when={"loss": ["focal"]},
        source="Lin et al. 2017",
        ge=0.0,
        le=10.0,
    )
    focal_alpha: Literal["none", "inverse_frequency", "class_balanced"] = searchable(
        "none",
        "Focal loss: one weight per class, from the training rows' class counts; the mean weight of a row is 1.",
        suggest=["none", "inverse_frequency", "class_balanced"],
        when={"loss": ["focal"]},
        source="Cui et al. 2019",
    )
    class_balanced_beta: float = searchable(
        0.999,
        "Class-balanced weights (1 - beta) / (1 - beta^n); 0 weighs all classes alike.",
        suggest=[0.9, 0.99, 0.999, 0.9999],
        when={"focal_alpha": ["class_balanced"]},
        source="Cui et al. 2019",
        ge=0.0,
        lt=1.0,
    )
    sampler: Literal["none", "random_over", "minority_over", "random_under", "enn"] = searchable(
        "none",
        "How a fold's training rows are resampled; validation rows never are.",
        suggest=["none", "random_over", "minority_over", "random_under", "enn"],
        source="Lemaitre et al. 2017",
    )
    sampler_ratio: float = searchable(
        0.5,
        "minority_over: smaller classes are repeated up to this share of the largest; "
        "random_under: larger classes are cut until the smallest is this share of them.",
        suggest={"low": 0.1, "high": 1.0},
        when={"sampler": ["minority_over", "random_under"]},
        gt=0.0,
        le=1.0,
    )
    enn_neighbors: int = searchable(
        3,
        "ENN: a row goes when its class is not the commonest of this many neighbours in the frozen encoder's space.",
        suggest=[3, 5],
        when={"sampler": ["enn"]},
        source="Wilson 1972",
        ge=1,
        le=50,
    )
    precision: Literal["auto", "fp32", "bf16"] = searchable(
        "auto", "auto: bf16 autocast on CUDA devices that have it, fp32 elsewhere."
    )


class Params(BaseModel):
    """Everything that decides how one trial trains, apart from the rows and the seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelParams
    training: TrainingParams
