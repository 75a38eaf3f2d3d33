"""Proposes the params of trials: Optuna's samplers, which here learn from partly trained trials too."""

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from fold_search.search.study.config import StudyConfig
from fold_search.storage.records import Failure
from fold_search.storage.studies import SeenStudy

Estimates = Mapping[int, float]  # by trial: what the race expects its mean over all folds to be


def make_sampler(config: StudyConfig, number: int, *, estimates: Estimates | None = None) -> BaseSampler:
    """The study's sampler for one trial, seeded from the study's seed and the trial's number.

    `estimates` may have any trial; those of complete trials are not used.
    """
    digest = hashlib.sha256(f"{config.study.seed}/trial/{number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if config.study.sampler == "tpe":
        return LearningSampler(seed=seed, estimates=estimates or {})
    return RandomSampler(seed=seed)


class LearningSampler(TPESampler):
    """TPE that treats an unfinished trial as a complete one with the mean that the race expects.

    TPE itself counts every trial that has not ended as a bad one, ranks every stopped one behind all complete ones, and
    draws at random until ten have ended. In a race that pauses most trials it would hardly learn anything.

    A diverged trial is ranked behind all others, whatever its score was before.
    """

    def __init__(self, *, seed: int, estimates: Estimates) -> None:
        with warnings.catch_warnings():
            # Without `group` a conditional parameter would be sampled independently of all others.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(seed=seed, multivariate=True, group=True, constant_liar=True)
        self._estimates = estimates

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE says, of the study with its estimates."""
        return super().infer_relative_search_space(SeenStudy(study, self._see), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE says, of the study with its estimates."""
        return super().sample_relative(SeenStudy(study, self._see), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE says, of the study with its estimates."""
        return super().sample_independent(SeenStudy(study, self._see), trial, param_name, param_distribution)

    def _see(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial with an estimate, as if it were complete with the estimate as its value."""
        if trial.state not in (TrialState.RUNNING, TrialState.PRUNED):
            return trial
        place: dict[str, Any] = {}
        if trial.user_attrs.get("failure") == Failure.DIVERGED:
            place["state"] = TrialState.PRUNED  # one without any value is the last
        elif trial.number in self._estimates:
            place["value"] = self._estimates[trial.number]
        else:
            return trial
        seen = optuna.trial.create_trial(**place, params=trial.params, distributions=trial.distributions)
        seen.number = trial.number
        return seen
