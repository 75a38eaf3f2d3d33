"""Optuna's studies, in the same database as the ledger and with the same settings.

Optuna has no public way to write to a trial that another process asked for. So this module uses its private names; no
other module does. That is also why pyproject.toml bounds its version.
"""

import time
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from fold_search.storage.database import connect, engine_options, explaining, parse, place
from fold_search.storage.errors import LeaseLost, StorageError
from fold_search.storage.records import Direction, TrialState

CREATION_ATTEMPTS = 5
TOLD_AS = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}


def open_study(url: str, *, name: str, direction: Direction, sampler: BaseSampler | None = None) -> optuna.Study:
    """The Optuna study of that name, created if it is not there; raises StorageError."""
    storage = optuna_storage(url)
    with optuna_errors(url):
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction=direction,
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )


def close_study(study: optuna.Study) -> None:
    """Close the connections of a study that `open_study` opened."""
    backend: Any = getattr(study._storage, "_backend", study._storage)
    backend.engine.dispose()


def next_number(study: optuna.Study, *, known: Collection[int]) -> int:
    """The number of the trial that Optuna gives next. Trials given before and not `known` are queued first."""
    trials = study.get_trials(deepcopy=False)
    queue = [trial.number for trial in trials if trial.state is OptunaState.WAITING]
    for trial in trials:
        if trial.state is OptunaState.RUNNING and trial.number not in known:
            _requeue(study, trial._trial_id)
            queue.append(trial.number)
    return min(queue, default=len(trials))


def ask_afresh(study: optuna.Study, *, number: int) -> optuna.Trial:
    """Ask for trial `number`, and forget the params that it may have been given before.

    Raises LeaseLost if Optuna gives another number because somebody else has asked too; that trial is queued again.
    """
    trial = study.ask()
    if trial.number != number:
        _requeue(study, trial._trial_id)
        raise LeaseLost(f"Optuna gave trial {trial.number}, and was about to give trial {number}")
    # A sampler draws one param after the other. If some were known already, it would draw other values for the rest.
    trial._cached_frozen_trial.params, trial._cached_frozen_trial.distributions = {}, {}
    return trial


def report(study: optuna.Study, number: int, *, step: int, value: float) -> None:
    """Report a value of a running trial, whichever process asked for it."""
    study._storage.set_trial_intermediate_value(_trial_id(study, number), step, value)


def end(
    study: optuna.Study,
    number: int,
    state: TrialState,
    *,
    value: float | None,
    attributes: Mapping[str, Any],
    last_report: tuple[int, float] | None = None,
) -> None:
    """Tell Optuna how a trial ended, with user attributes and a last (step, value); does nothing if it knows."""
    storage, trial_id = study._storage, _trial_id(study, number)
    if storage.get_trial(trial_id).state.is_finished():
        return
    for key, attribute in attributes.items():
        storage.set_trial_user_attr(trial_id, key, attribute)
    if last_report is not None:
        storage.set_trial_intermediate_value(trial_id, *last_report)
    study.tell(number, value, state=TOLD_AS[state], skip_if_finished=True)


def system_attributes(study: optuna.Study) -> dict[str, Any]:
    """The attributes that Optuna itself keeps of the study."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_system_attributes(study: optuna.Study, attributes: Mapping[str, Any]) -> None:
    """Write what `system_attributes` read of another study."""
    for key, attribute in attributes.items():
        study._storage.set_study_system_attr(study._study_id, key, attribute)


class SeenStudy(optuna.Study):
    """A study as the sampler is meant to see it: every trial passes through `see` first."""

    def __init__(self, study: optuna.Study, see: Callable[[FrozenTrial], FrozenTrial]) -> None:
        self.__dict__.update(study.__dict__)
        self._see = see

    def _get_trials(
        self, deepcopy: bool = True, states: Container[OptunaState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [self._see(trial) for trial in super()._get_trials(deepcopy=deepcopy, use_cache=use_cache)]
        return [trial for trial in trials if states is None or trial.state in states]


def _trial_id(study: optuna.Study, number: int) -> int:
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)


def _requeue(study: optuna.Study, trial_id: int) -> None:
    study._storage.set_trial_state_values(trial_id, OptunaState.WAITING)


def optuna_storage(url: str) -> RDBStorage:
    """Optuna's storage at our URL; raises StorageError. Its heartbeats stay off: the ledger has leases instead.

    Whoever opens it closes its `engine` (`dispose`) at the end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    connect(url).dispose()
    parsed = parse(url)
    # Optuna formats the URL as a template.
    template = parsed.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    options = engine_options(parsed)
    with optuna_errors(url):
        try:
            _create_tables(template, options)
            return RDBStorage(template, engine_kwargs=options)
        except RuntimeError as error:  # another version of Optuna wrote its tables
            raise StorageError(f"{place(parsed)}: {error}") from None


@contextmanager
def optuna_errors(url: str) -> Iterator[None]:
    """Turn the database errors of calls to Optuna into StorageError or StorageUnavailable."""
    with explaining(parse(url)):
        try:
            yield
        except StorageInternalError as error:
            if isinstance(error.__cause__, DBAPIError):
                raise error.__cause__ from None
            raise


def _create_tables(template: str, options: dict[str, Any]) -> None:
    # Several processes may create Optuna's tables at the same time. Only one succeeds; the others find them made.
    for attempt in range(CREATION_ATTEMPTS):
        try:
            RDBStorage(template, engine_kwargs=options | {"poolclass": NullPool})
            return
        except (DBAPIError, StorageInternalError):
            time.sleep(0.1 * (attempt + 1))
