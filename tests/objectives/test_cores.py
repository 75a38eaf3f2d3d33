"""How many cores a process computes on: by its affinity, its container's limit and the user's environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fold_search.objectives import cores
from fold_search.objectives.cores import num_threads, settle_threads, usable_cores

NO_LIMIT = 2**31
# What stands in /proc/self/cgroup, the files below /sys/fs/cgroup, and how many cores these allow.
CGROUPS = {
    "version 2": ("0::/app\n", {"app/cpu.max": "200000 100000\n"}, 2),
    "version 2, a part of a core": ("0::/app\n", {"app/cpu.max": "150000 100000\n"}, 2),
    "version 2, less than a core": ("0::/app\n", {"app/cpu.max": "50000 100000\n"}, 1),
    "version 2, no limit": ("0::/app\n", {"app/cpu.max": "max 100000\n"}, NO_LIMIT),
    "version 2, of a group above": (
        "0::/pod/app/worker\n",
        {"pod/app/worker/cpu.max": "max 100000\n", "pod/app/cpu.max": "900000 100000\n", "pod/cpu.max": "3000 1000\n"},
        3,
    ),
    "version 2, inside a container": ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
    "version 2, a name from outside": ("0::/../../docker/0123\n", {"cpu.max": "400000 100000\n"}, 4),
    "version 1": (
        "4:memory:/other\n1:cpu,cpuacct:/app\n",
        {
            "cpu,cpuacct/app/cpu.cfs_quota_us": "300000\n",
            "cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
            "memory/other/cpu.cfs_quota_us": "100000\n",
            "memory/other/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "version 1, inside a container": (
        "1:cpu:/docker/0123\n",
        {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1, no limit": (
        "1:cpu:/app\n0::/\n",
        {"cpu/app/cpu.cfs_quota_us": "-1\n", "cpu/app/cpu.cfs_period_us": "100000\n"},
        NO_LIMIT,
    ),
    "nonsense": ("0::/app\n", {"app/cpu.max": "much\n"}, NO_LIMIT),
    "a period of 0": ("0::/app\n", {"app/cpu.max": "100 0\n"}, NO_LIMIT),
    "nothing to read": (None, {}, NO_LIMIT),
}


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a user who has asked for nothing, on eight cores."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", cores.SETTLED):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile goes with the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    monkeypatch.setattr(cores, "container_limit", lambda root: NO_LIMIT)
    return monkeypatch


@pytest.mark.parametrize("case", CGROUPS)
def test_a_containers_limit_is_found(tmp_path: Path, case: str):
    """Of both versions of control groups, the tightest of the process's own and of those above it."""
    said, files, expected = CGROUPS[case]
    if said is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(said)
    for name, content in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert cores.container_limit(tmp_path) == expected


@pytest.mark.parametrize(
    ("said", "file", "content", "expected"),
    [
        ("0::/app\n", "app/memory.max", "1048576\n", 2**20),
        ("0::/pod/app\n", "pod/memory.max", "1048576\n", 2**20),
        ("4:memory:/app\n1:cpu:/app\n", "memory/app/memory.limit_in_bytes", "1048576\n", 2**20),
        ("4:cpu:/app\n", "cpu/app/memory.limit_in_bytes", "1048576\n", None),
        ("0::/app\n", "app/memory.max", "max\n", None),
        ("4:memory:/\n", "memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_a_containers_memory_is_found(tmp_path: Path, said: str, file: str, content: str, expected: int | None):
    """Of both versions of control groups; without a limit it is the machine's."""
    found = tmp_path / "sys/fs/cgroup" / file
    found.parent.mkdir(parents=True)
    found.write_text(content)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(said)
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert cores.usable_memory(tmp_path) == (expected or everything)


@pytest.mark.parametrize(("limit", "expected"), [(NO_LIMIT, 8), (3, 3), (16, 8)])
def test_the_tighter_of_affinity_and_limit_counts(user: pytest.MonkeyPatch, limit: int, expected: int):
    """A container may be allowed more than the process was pinned to."""
    user.setattr(cores, "container_limit", lambda root: limit)
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, 2), ("3", 3), ("1", 1), ("3,2", 3), ("", 2), ("many", 2), ("0", 2)]
)
def test_workers_share_the_cores_unless_the_user_asks_for_a_number(
    user: pytest.MonkeyPatch, asked: str | None, expected: int
):
    """OMP_NUM_THREADS is each process's, as for every program; what it cannot mean counts as not said."""
    if asked is not None:
        user.setenv("OMP_NUM_THREADS", asked)
    settle_threads()  # the command
    settle_threads(4)  # before it starts its workers
    assert num_threads(4) == expected
    assert num_threads() in (8, expected)  # a process by itself: all cores, or what the user asked for
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_what_the_user_says_of_waiting_threads_stays(user: pytest.MonkeyPatch):
    """On a machine of one's own threads may spin."""
    user.setenv("OMP_WAIT_POLICY", "ACTIVE")
    settle_threads()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


# Any command of the program, for all begin there; what computes is this process or one that looks at encoders.
COMMAND = """
import os, sys
from fold_search.search import cli

@cli.app.command("compute")
def compute():
    import torch
    from fold_search.search.study.checks import other_process
    with other_process() as child:
        print(torch.get_num_threads(), child.submit(torch.get_num_threads).result(), os.environ["OMP_WAIT_POLICY"])

cli.main()
"""


@pytest.mark.parametrize("asked", [None, "1"])
def test_every_command_settles_its_threads_before_torch_is_loaded(asked: str | None):
    """Pinned to one core it computes on one thread, and so if the user asks for one; its child does the same."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "SEARCH_"))}
    environment |= {"OMP_NUM_THREADS": asked} if asked else {}
    pinned = "" if asked else f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])"
    command = [sys.executable, "-c", f"{pinned}\n{COMMAND}", "compute"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1", "1", "PASSIVE"]
