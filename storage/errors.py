"""What can go wrong in this room: the database, the artifacts, a lease; and what a file system says, in plain words."""

import errno

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StorageError(ValueError):
    """The database or the artifact store cannot be used as asked; one line, passwords removed."""


class StorageUnavailable(StorageError):
    """The database does not answer now (unreachable, locked, restarting); the same call may succeed later."""


class LeaseLost(RuntimeError):
    """The fold run or the role has another owner by now, so nothing was written."""


def reason_of(error: OSError) -> str:
    """Why the file system refused, without the path."""
    return "the disk is full" if error.errno in FULL else error.strerror or str(error)
