"""What can go wrong in this room: the user's data, or the training itself."""

import resource


class DataError(ValueError):
    """The data file cannot be used; the message names the file, what was found and what was expected, on one line."""


class Misread(DataError):
    """The file would be read with another setting of the study file's section `data`, which is named beside."""

    def __init__(self, message: str, *, setting: str = "", value: str = "") -> None:
        super().__init__(message)
        self.setting = setting
        self.value = value


class ModelError(ValueError):
    """The folder of an exported model cannot be used; the message names the file, what was found and expected."""


NO_KERNEL = "could not create a primitive"  # oneDNN


class TrialError(RuntimeError):
    """The configuration cannot be trained: the trial ends as failed and the search goes on."""


class Diverged(TrialError):
    """The loss or the gradients are no longer finite."""


class OutOfMemory(TrialError):
    """Not even one row at a time fits into the memory of the device or of the host."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says so: Python's, NumPy's, CUDA's, and PyTorch's and oneDNN's where the host has too little.

    oneDNN does not say why it has no kernel, nor Python and tokenizers (in Rust, which panics) why
    they have no new thread: in a process with a memory limit, that is why.
    """
    if isinstance(error, OutOfMemory | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    limited = resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY
    if type(error).__name__ == "PanicException":
        return limited
    signs = ("can't allocate memory", NO_KERNEL, "could not create a memory", "can't start new")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs[: None if limited else 1])
