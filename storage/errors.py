"""What can go wrong in this room: the database, the artifacts, a lease."""


class StorageError(ValueError):
    """The database or the artifact store cannot be used as asked; one line, passwords removed."""


class StorageUnavailable(StorageError):
    """The database does not answer now (unreachable, locked, restarting); the same call may succeed later."""


class LeaseLost(RuntimeError):
    """The fold run or the role belongs to another owner by now; whatever was to be written is refused."""
