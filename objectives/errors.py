"""What can go wrong in this room: the user's data, or the training itself."""

import resource


class DataError(ValueError):
    """The data file cannot be used. One line names the file, what was found and what was expected."""


class Misread(DataError):
    """The file can be read with another value of a setting in the study file's section `data`; `setting` names it."""

    def __init__(self, message: str, *, setting: str = "", value: str = "") -> None:
        super().__init__(message)
        self.setting = setting
        self.value = value


class ModelError(ValueError):
    """The folder of an exported model cannot be used. The message names the file, what was found and expected."""


NO_KERNEL = "could not create a primitive"  # oneDNN


class TrialError(RuntimeError):
    """The configuration cannot be trained: the trial ends as failed and the search goes on."""


class Diverged(TrialError):
    """The loss or the gradients are no longer finite."""


class OutOfMemory(TrialError):
    """Not even one row at a time fits into the memory of the device or of the host."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy, CUDA, PyTorch or oneDNN means that memory ran out, on the device or the host.

    oneDNN does not say why it has no kernel. Nor do Python and tokenizers (written in Rust, which panics) say why they
    get no new thread. In a process with a memory limit, the limit is the reason.
    """
    if isinstance(error, OutOfMemory | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    limited = resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY
    if type(error).__name__ == "PanicException":
        return limited
    signs = ("can't allocate memory", NO_KERNEL, "could not create a memory", "can't start new")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs[: None if limited else 1])
