"""The errors of all rooms, drawn once, and which of them a user can mend.

::

    ValueError                one line on the terminal, exit code 2
    |-- ConfigError           study file, command line, environment    (search)
    |-- DataError             the data file                            (objectives)
    |   `-- Misread           another setting would read it            (objectives)
    |-- ModelError            the folder of an exported model        (objectives)
    |-- EncoderError          the pretrained model                     (models)
    |-- StorageError          database or artifact store               (storage)
    `-- RunFailed             a run that came to nothing; an exit code of its own
    RuntimeError              handled by the search itself
    |-- TrialError            this configuration cannot be trained     (objectives)
    |   |-- Diverged          loss or gradients are not finite         (objectives)
    |   `-- OutOfMemory       not even one row at a time fits          (objectives)
    `-- LeaseLost             another owner holds the fold run by now  (storage)
"""

from enum import IntEnum

from fold_search.models.errors import EncoderError
from fold_search.objectives.errors import DataError, Diverged, ModelError, TrialError, is_out_of_memory
from fold_search.storage.errors import StorageError
from fold_search.storage.records import Failure


class ConfigError(ValueError):
    """The study file, an option or the environment cannot be used; one line: the key, what was found and expected."""


class ExitCode(IntEnum):
    """What `search run` and `search worker` end with; the table of all endings is in docs/exit-codes.md.

    Python itself ends with 1 if the error is a bug of ours.
    """

    DONE = 0
    USER_ERROR = 2
    NONE_COMPLETE = 3
    TRIALS_FAIL = 4
    WORKERS_DIE = 5
    DATABASE_AWAY = 6
    INTERRUPTED = 130


class RunFailed(ValueError):
    """A run ended without a result, and no input is wrong; one line: what happened, and what helps."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


USER_ERRORS = (ConfigError, DataError, ModelError, StorageError, EncoderError)

_FAILURES = {
    Diverged: Failure.DIVERGED,
    TrialError: Failure.CONFIGURATION,
    ConfigError: Failure.CONFIGURATION,
    DataError: Failure.DATA_ERROR,
    ModelError: Failure.MODEL_ERROR,
    EncoderError: Failure.MODEL_ERROR,
    StorageError: Failure.STORAGE_ERROR,
}


def failure_of(error: Exception) -> tuple[Failure, str]:
    """The kind of failure that an error is for a fold run, and the reason in words, which begins with the kind."""
    known = (kind for raised, kind in _FAILURES.items() if isinstance(error, raised))
    kind = Failure.OUT_OF_MEMORY if is_out_of_memory(error) else next(known, Failure.CODE_ERROR)
    said = f"{type(error).__name__}: {error}" if kind is Failure.CODE_ERROR else str(error)
    return kind, said if said.startswith(kind.words) else f"{kind.words}: {said}"
