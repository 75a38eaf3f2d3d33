"""What can go wrong, drawn once for all rooms, and which of it is the user's to correct.

::

    ValueError                one line on the terminal, exit code 2
    |-- ConfigError           study file, command line, environment    (search)
    |-- DataError             the data file                            (objectives)
    |-- ModelError            the folder of an exported model        (objectives)
    |-- EncoderError          the pretrained model                     (models)
    `-- StorageError          database or artifact store               (storage)
    RuntimeError              handled by the search itself
    |-- TrialError            this configuration cannot be trained     (objectives)
    |   `-- Diverged          loss or gradients are not finite         (objectives)
    `-- LeaseLost             another owner holds the fold run by now  (storage)
"""

from collections.abc import Iterable

from models.errors import EncoderError
from objectives.errors import DataError, ModelError
from storage.errors import StorageError


class ConfigError(ValueError):
    """The study file, an option or the environment cannot be used; one line: the key, what was found and expected."""


USER_ERRORS = (ConfigError, DataError, ModelError, StorageError, EncoderError)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, for "did you mean"; None where none is close."""
    from difflib import get_close_matches

    folded = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), folded, n=1)
    return folded[close[0]] if close else None
