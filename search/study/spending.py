"""What a study has used of its device hours and its money, over all its runs and machines."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fold_search.search.study.sections import BudgetConfig
from fold_search.storage.view import LedgerView

CPU = "CPU"  # the name of that device


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The hours that workers have held devices, and what those cost at the price that is set now.

    `unit` says what was used: "GPU hours", "worker hours" of workers without a GPU, "device hours" of both or none yet.
    `devices` are those that are held at this moment. None: no limit, or no price.
    """

    hours: float
    unit: str
    devices: float
    most_hours: float | None
    money: float | None
    most_money: float | None
    price_per_hour: float | None

    @property
    def hours_left(self) -> float:
        """The hours until one of the budgets is used up, never below 0; infinity without such a budget."""
        left = math.inf if self.most_hours is None else self.most_hours - self.hours
        if self.most_money is not None and self.price_per_hour is not None:
            left = min(left, self.most_money / self.price_per_hour - self.hours)
        return max(left, 0.0)

    @property
    def seconds_left(self) -> float:
        """The seconds until then with the devices that are held now; infinity if none is, and nothing is used."""
        return 3600 * self.hours_left / self.devices if self.devices else math.inf

    @property
    def used_up(self) -> str | None:
        """Which budget is used up and how the study goes on, in words; None if none is."""
        if self.hours_left > 0:
            return None
        if self.most_hours is not None and self.hours >= self.most_hours:
            key, most, used = "gpu_hours", self.most_hours, self.hours_in_words
        else:
            key, most, used = "money", self.most_money or 0.0, self.money_in_words
        more = 2 * max(most, (self.money or 0.0) if key == "money" else self.hours)
        return f"budget.{key} is used up ({used}); `search run --set budget.{key}={more:.4g}` continues the study"

    @property
    def hours_in_words(self) -> str:
        """Such as "2.30 of 4 GPU hours", and without a limit "2.30 GPU hours" or "18 GPU minutes"."""
        if self.most_hours is None:
            return in_hours(self.hours, unit=self.unit)
        return f"{_few_digits(self.hours)} of {self.most_hours:g} {self.unit}"

    @property
    def money_in_words(self) -> str:
        """Such as "4.60 of 8.00"; nothing without a price."""
        most = "" if self.most_money is None else f" of {self.most_money:.2f}"
        return "" if self.money is None else f"{self.money:.2f}{most}"


def spending(ledger: LedgerView, budget: BudgetConfig) -> Spending:
    """What is used by now; raises StorageError."""
    usage = ledger.usage()
    hours, price = sum(worker.seconds for worker in usage) / 3600, budget.price_per_hour
    on_cpu = [worker.device == CPU for worker in usage]
    unit = "device hours" if len(set(on_cpu)) != 1 else "worker hours" if on_cpu[0] else "GPU hours"
    return Spending(
        hours=hours,
        unit=unit,
        devices=sum(worker.share for worker in usage if worker.live),
        most_hours=budget.gpu_hours,
        money=None if price is None else hours * price,
        most_money=budget.money,
        price_per_hour=price,
    )


def in_hours(*hours: float, unit: str) -> str:
    """Hours of work, one figure or the least and the most, in their unit; less than one in minutes.

    Such as "2.30 GPU hours", "5 to 9 worker minutes".
    """
    if not 0 < max(hours) < 1:
        return f"{_joined(map(_few_digits, hours))} {unit}"
    return f"{_joined(f'{60 * value:.2g}' for value in hours)} {unit.replace('hours', 'minutes')}"


def _joined(figures: Iterable[str]) -> str:
    return " to ".join(dict.fromkeys(figures))  # one figure if both read the same


def _few_digits(hours: float) -> str:
    """Two decimals, or two digits of what is less than 6 minutes."""
    return f"{hours:.2f}" if hours >= 0.1 or not hours else f"{hours:.2g}"
