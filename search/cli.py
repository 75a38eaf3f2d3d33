"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

import contextlib
import errno
import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING

import click

from fold_search.objectives.cores import settle_threads
from fold_search.search.commands import completing, datasets, drafts, exports, looks, runs, servers, upkeep
from fold_search.search.commands.answers import say, write_in_any_encoding

if TYPE_CHECKING:
    from fold_search.objectives.errors import Misread

TYPED = "search.typed"
LONGEST_ERROR = 2000  # a label, say, may be as long as the file


class App(click.Group):
    """The program. An error that a user can mend ends it with one line and exit code 2, or with the error's own code.

    A number that a command returns is its exit code. Ctrl-C gives 130.
    """

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Keep what the user typed."""
        context.meta[TYPED] = tuple(args)
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> None:
        """Call the command. With --debug a user's error shows its traceback."""
        try:
            code = super().invoke(context)
        except KeyboardInterrupt:
            say("interrupted", err=True)
            code = 130
        except (OSError, ValueError) as error:
            from fold_search.objectives.errors import Misread
            from fold_search.search.errors import USER_ERRORS, RunFailed

            said = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                # Of a file that cannot even be looked at: its name is too long, its folder closed to this user.
                said = f"{error.strerror}: {error.filename}"
            elif not isinstance(error, (*USER_ERRORS, RunFailed)):
                raise
            elif isinstance(error, Misread):
                said += self._proposed(context, error)
            if context.obj:
                raise
            say(f"error: {' '.join(said.splitlines())[:LONGEST_ERROR]}", err=True)
            code = error.code if isinstance(error, RunFailed) else 2
        sys.exit(code or 0)

    def _proposed(self, context: click.Context, error: "Misread") -> str:
        """What the user typed, with the option by which the file can be read; nothing if the command has none."""
        typed = context.meta[TYPED]
        command: click.Command = self
        for word in typed:
            if isinstance(command, click.Group):
                command = command.commands.get(word, command)
        options = {parameter.name for parameter in command.params}
        if error.setting in options:
            return f": {shlex.join(['search', *typed, f'--{error.setting}', error.value])}"
        if "overrides" in options:
            return f": {shlex.join(['search', *typed, '--set', f'data.{error.setting}={error.value}'])}"
        return ""


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fold-search")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug logs.")
@click.pass_context
def app(context: click.Context, debug: bool) -> None:
    """Hyperparameter search for classifiers that are fine-tuned on imbalanced data.

    Start with `search init`, which writes a study file for your data. Then `search run` runs it.
    """
    context.obj = debug
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(message)s")


for command in (
    *(drafts.init, drafts.plan),
    *(runs.run, runs.worker),
    *(looks.status, looks.list_studies, looks.best, looks.report, looks.diagnose, looks.neptune),
    *(servers.serve, servers.dashboard, servers.ui),
    *(exports.export, exports.export_curves, exports.predict, exports.evaluate),
    *(upkeep.publish, upkeep.backup, upkeep.restore, upkeep.clean),
    datasets.data,
):
    app.add_command(command)


def main() -> None:
    """Run the command line. An error that a user can mend ends with one line and exit code 2."""
    settle_threads()
    write_in_any_encoding()
    if completing.ASKED in os.environ:
        completing.prepare()
    try:
        app(prog_name="search")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # Where stdout goes to, as files are written elsewhere; stderr may be no better off.
        with contextlib.suppress(OSError):
            say(f"error: the output cannot be written: {error.strerror}", err=True)
        os._exit(2)  # at its usual end Python would try again to write it, and show a traceback
