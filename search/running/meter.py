"""What a run looks at while it goes on: whether the study's budgets are used up, and what it is trained on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fold_search.search.study.sections import BudgetConfig
from fold_search.search.study.spending import spending
from fold_search.storage.records import Usage
from fold_search.storage.view import LedgerView

LOOK_SECONDS = 1.0


@dataclass(slots=True, kw_only=True)
class Meter:
    """Looks every second, at `ledger`; `say` is told of a device that is another than the last run's."""

    ledger: LedgerView
    budget: BudgetConfig
    say: Callable[[str], None]
    used_up: str | None = None  # which budget, in words
    _before: list[Usage] = field(init=False)
    _knows_device: bool = False
    _next_look: float = 0.0

    def __post_init__(self) -> None:
        self._before = self.ledger.usage()

    def look(self) -> None:
        """Look, if it is time; raises StorageError."""
        now = time.monotonic()
        if now < self._next_look or (self._knows_device and not self.budget.is_shared):
            return
        self._next_look = now + LOOK_SECONDS
        if self.budget.is_shared:
            self.used_up = spending(self.ledger, self.budget).used_up
        if not self._knows_device:
            self._compare_devices()

    def _compare_devices(self) -> None:
        earlier = {worker.role for worker in self._before}
        new = [worker for worker in self.ledger.usage() if worker.role not in earlier]
        self._knows_device = bool(new)
        if new and self._before and new[0].device != (last := self._before[-1].device):
            self.say(
                f"the device changed: the study was trained on {last}, and goes on with {new[0].device}; epochs take "
                "another time, and scores may differ in their last digits"
            )
