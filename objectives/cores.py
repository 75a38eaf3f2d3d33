"""What a process may use of the machine, cores and memory, and how its threads wait.

The threads are settled before numpy and torch are loaded.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# What `settle_threads` has set itself. Workers share that number; a number that the user set holds for each process.
SETTLED = "SEARCH_SETTLED_THREADS"


def settle_threads(num_processes: int = 1) -> None:
    """Let this process and those that it starts compute on their share of the cores, and let waiting threads sleep.

    OMP_NUM_THREADS and OMP_WAIT_POLICY are left alone where the user has set them.
    """
    # Otherwise OpenMP's threads spin while they wait. On a busy machine that costs a process most of its speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    share = str(num_threads(num_processes))
    if _asked() is None:
        os.environ |= {"OMP_NUM_THREADS": share, SETTLED: share}


def num_threads(num_processes: int = 1) -> int:
    """How many threads each of so many processes gets: OMP_NUM_THREADS if it is set, else its share of the cores."""
    return _asked() or max(1, usable_cores() // num_processes)


def usable_cores() -> int:
    """How many of the machine's cores this process may use, by its affinity and its container's limit."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, container_limit(Path("/"))))


def _asked() -> int | None:
    """The user's OMP_NUM_THREADS; of a list (one number for each level of nested loops) the first."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    first = given.partition(",")[0].strip()
    is_number = first.isascii() and first.isdigit() and int(first) > 0
    return int(first) if is_number and given != os.environ.get(SETTLED) else None


def container_limit(root: Path) -> int:
    """The cores that this process's control groups allow, rounded up; a huge number without a limit.

    `root` is the folder that /proc and /sys are in.
    """
    shares = [share for folder in _groups(root, "cpu") if (share := _share(folder)) is not None]
    return max(1, math.ceil(min(shares, default=2**31)))


def usable_memory(root: Path = Path("/")) -> int:
    """The bytes of the host's memory that this process may use: all there is, or less by its container's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is no number
                limits.append(int((folder / name).read_text()))
    return min(limit for limit in limits if limit > 0)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, version 1 or 2, and of all groups above them.

    Of version 1 those of one `controller`, cpu or memory.

    A container may see its own group at the root of the tree, under whatever name it has outside.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    tree = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for top in (tree / controllers, tree / controller, tree / "unified"):
            folder = top / group.lstrip("/")
            yield from (above for above in (folder, *folder.parents) if above.is_relative_to(top))


def _share(folder: Path) -> float | None:
    """The cores that one group may use at a time; None without a limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number either
        return None
    return share if share > 0 else None
