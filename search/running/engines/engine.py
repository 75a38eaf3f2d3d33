"""What a run asks of the place where its workers run."""

from collections.abc import Mapping
from typing import Protocol

from fold_search.objectives.stages import Stage


class Engine(Protocol):
    """Keeps the workers of one study alive.

    It knows who works. What is done is in the ledger, where a worker's lease lapses without any message; of what is
    being done it knows what a user may like to see, and nothing depends on that.
    """

    @property
    def error(self) -> str | None:
        """Why going on makes no sense, in one line; None as long as it does."""

    @property
    def too_many_deaths(self) -> bool:
        """Whether the error is that workers die, and not one that a user can correct."""

    def start(self) -> None:
        """Start every worker; raises ConfigError if one cannot be started, and then `kill` ends the others."""

    def tend(self) -> list[str]:
        """Replace the workers that are gone, unless all are to leave; returns their owners, whose leases are free."""

    def stop(self) -> None:
        """Ask every worker to leave after the step in hand; none is replaced from now on."""

    def alive(self) -> bool:
        """Whether any worker still runs."""

    def doing(self) -> Mapping[str, Stage | None]:
        """What each worker said last that it is doing, by owner; None: nothing."""

    def kill(self) -> list[str]:
        """End every worker now; returns their owners, whose leases are free."""
