"""Whether a study has work left, and how its user continues it."""

from fold_search.search.racing.live import live_race
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.opened import OpenStudy
from fold_search.search.study.space import most_trials
from fold_search.storage.ledger import Ledger
from fold_search.storage.records import StudyState


def reopen_if_work_is_left(study: OpenStudy, config: StudyConfig) -> bool:
    """Whether the study has work left; one that has ended is opened again if it has."""
    if study.record.state is StudyState.RUNNING:
        return True
    if left := has_work_left(study.ledger, config):
        study.ledger.reopen_study()
    return left


def has_work_left(ledger: Ledger, config: StudyConfig) -> bool:
    """Whether a run would train anything: trials that the race wants of the budget, or that a failed study left open.

    A grid has no more trials than combinations, and a study may end once new trials are expected to gain nothing.
    """
    race = live_race(ledger, config)
    return bool(race.trials_left(race.scores.matrix()) or ledger.trials(told=False))


def how_to_add_trials(ledger: Ledger, config: StudyConfig) -> str:
    """How to continue a study that has no work left, in words."""
    num_trials = len(ledger.trials())
    if num_trials < most_trials(config):
        return "`search run --set budget.until=used` runs the rest of its budget"
    if num_trials < config.budget.trials:
        return "its grid has no more combinations"
    return "`search run --trials N` adds trials, up to N in all"
