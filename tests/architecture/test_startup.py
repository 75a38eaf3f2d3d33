"""`search --help` answers at once: nothing is loaded before a command needs it."""

import subprocess
import sys

HELP = (["--help"], ["run", "--help"], ["worker", "--help"])


def modules_of(program: str) -> set[str]:
    """The modules that a process has loaded after a program."""
    words = f"import sys; {program}; print(*sys.modules, sep='\\n', file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", words], check=True, capture_output=True, text=True)
    return set(result.stderr.splitlines())


def test_help_loads_nothing_heavy():
    """Of other packages click alone, of ours the commands: no learning, tracking, database or table library.

    That is counted, not timed: how fast a busy machine answers says little of the program.
    """
    show = f"from fold_search.search.cli import app; [app(words, standalone_mode=False) for words in {HELP}]"
    loaded = modules_of(show) - modules_of("pass")
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert foreign == {"click", "fold_search"}
    ours = {name for name in loaded if name.startswith("fold_search.")}
    assert {name.rpartition(".")[0] for name in ours} == {
        "fold_search",
        "fold_search.objectives",  # cores: threads are set before anything counts them
        "fold_search.search",
        "fold_search.search.commands",
        "fold_search.search.study",  # defaults: what the options name
    }
    assert len(ours) < 20
    assert len(loaded) < 300
