"""Curves drawn from a model; some break what rules assume: heavy tails, one freak fold, unequal noise."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fold_search.search.exporting.curves import Curves

Kind = Literal["plain", "heavy-tailed", "freak-fold", "heteroscedastic"]
KINDS: tuple[Kind, ...] = ("plain", "heavy-tailed", "freak-fold", "heteroscedastic")


def synthetic(
    *, kind: Kind = "plain", num_trials: int = 100, num_folds: int = 5, num_epochs: int = 10, seed: int = 0
) -> Curves:
    """Draw curves: a trial's quality falls off around one point of the space, folds differ in difficulty.

    A curve rises to its end at a rate of its own and stands at its best epoch so far. The trial x fold noise is normal
    with a third of the spread of good trials; `heavy-tailed`: Student's t with 2 degrees of freedom of that scale;
    `freak-fold`: one fold has five times the noise; `heteroscedastic`: each trial has its own, from a fifth to three
    times. The test score is the quality, with a quarter of the noise.
    """
    random = np.random.default_rng((seed, KINDS.index(kind)))
    learning_rate, dropout = random.random(num_trials), random.random(num_trials)
    sampler = random.integers(3, size=num_trials)
    distance = 3 * (learning_rate - 0.6) ** 2 + 0.5 * (dropout - 0.3) ** 2 + np.array([0.0, 0.05, 0.15])[sampler]
    quality = 0.8 - 0.25 * distance - 0.01 * random.exponential(size=num_trials)
    noise = 0.008 * _noise((num_trials, num_folds), kind, random)
    ends = quality[:, None] + 0.03 * random.standard_normal(num_folds) + noise
    rates = 0.15 + 0.85 * learning_rate[:, None] * random.uniform(0.8, 1.2, (num_trials, num_folds))
    epochs = np.arange(1, num_epochs + 1)
    rising = ends[:, :, None] - 0.5 * np.exp(-rates[:, :, None] * epochs)
    jitter = 0.006 * random.standard_normal(rising.shape)
    standing = np.maximum.accumulate(rising + jitter, axis=2).astype(np.float32)
    test = (
        standing[:, :, -1].mean(axis=1)[:, None]
        - noise.mean(axis=1)[:, None]
        + 0.002 * random.standard_normal((num_trials, num_folds))
    )
    params: list[dict[str, Any]] = [
        {"learning_rate": 10 ** (-5 + 3 * rate), "dropout": drop, "sampler": f"sampler {which}"}
        for rate, drop, which in zip(learning_rate.tolist(), dropout.tolist(), sampler.tolist(), strict=True)
    ]
    return Curves(
        numbers=np.arange(num_trials),
        standing=standing,
        lengths=np.full((num_trials, num_folds), num_epochs, np.int16),
        epochs=np.full(num_trials, num_epochs, np.int16),
        seconds=np.ones((num_trials, num_folds), np.float32),
        final=standing[:, :, -1].mean(axis=1).astype(np.float64),
        test_folds=test.astype(np.float32),
        test_ensemble=test.mean(axis=1).astype(np.float32),
        params=tuple(params),
        about={"study": f"synthetic {kind}", "metric": "macro_f1", "direction": "maximize", "folds": num_folds},
    )


def _noise(shape: tuple[int, int], kind: Kind, random: np.random.Generator) -> NDArray[np.float64]:
    noise = random.standard_t(2, size=shape) if kind == "heavy-tailed" else random.standard_normal(shape)
    if kind == "freak-fold":
        noise[:, random.integers(shape[1])] *= 5
    elif kind == "heteroscedastic":
        noise *= np.exp(random.uniform(np.log(0.2), np.log(3), size=(shape[0], 1)))
    return noise
