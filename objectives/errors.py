"""What can go wrong in this room: the user's data, or the training itself."""


class DataError(ValueError):
    """The data file cannot be used; the message names the file, what was found and what was expected, on one line."""


class ModelError(ValueError):
    """The folder of an exported model cannot be used; the message names the file, what was found and expected."""


class TrialError(RuntimeError):
    """The configuration cannot be trained: the trial ends as failed and the search goes on."""


class Diverged(TrialError):
    """The loss or the gradients are no longer finite."""
