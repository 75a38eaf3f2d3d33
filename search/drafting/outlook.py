"""What a study file will take on this machine, before anything of it is paid for: `search plan`."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np

from fold_search.objectives.data.dataset import Dataset
from fold_search.search.drafting.forecast import EMBEDDING, Forecast, Load, Shape, forecast, mean_growth
from fold_search.search.drafting.measured import Measured, Memory, Wanted
from fold_search.search.drafting.measuring import NotMeasured, try_encoder, try_memory
from fold_search.search.drafting.ways import Way, ways_of
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.encoder_places import located
from fold_search.search.study.space import field_values, most_trials

HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One encoder, trained in one way, and what a study of it alone would take."""

    encoder: str
    way: Way
    takes: Forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """What a training step takes of memory, for one batch size and length."""

    batch_size: int
    max_length: int  # of images their size
    memory: Memory | None  # None: the process was killed, most likely since memory ran out


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a study takes: its variants are as likely as each other, so the study's times are their means."""

    device: str
    is_busy: bool
    workers: int
    trials: int
    num_folds: int
    races: bool
    devices: int  # that are held: workers on one GPU share it, without a GPU each counts
    variants: tuple[Variant, ...]
    weighed: str  # what was trained for `memory`, in words
    memory: tuple[StepMemory, ...]
    limits: tuple[str, ...]  # of the budget, that end the study earlier
    problems: tuple[str, ...]

    @property
    def seconds(self) -> tuple[float, float]:
        """How long the study takes with the race, at least and at most."""
        low, high = zip(*(variant.takes.study for variant in self.variants), strict=True)
        return fmean(low), fmean(high)

    @property
    def seconds_without_race(self) -> float:
        """How long it takes if every fold is trained to its end."""
        return fmean(variant.takes.without_race for variant in self.variants)

    @property
    def device_hours(self) -> tuple[float, float]:
        """The hours that its workers hold a device."""
        low, high = (self.devices * seconds / HOUR for seconds in self.seconds)
        return low, high

    def summary(self) -> dict[str, Any]:
        """Return what is compared in the end with what the study took."""
        return {"trials": self.trials, "workers": self.workers, "gpu_hours": list(self.device_hours)}

    def as_json(self, *, price: float | None = None) -> dict[str, Any]:
        """Return it as JSON; `price` is that of a device hour."""
        low, high = self.device_hours
        return {
            "device": self.device,
            "workers": self.workers,
            "trials": self.trials,
            "folds": self.num_folds,
            "seconds": list(self.seconds),
            "seconds_without_race": self.seconds_without_race,
            "gpu_hours": [low, high],
            "money": None if price is None else [price * low, price * high],
            "variants": [
                {"encoder": one.encoder, "trained": one.way.words, **asdict(one.takes)} for one in self.variants
            ],
            "memory": [
                {
                    "batch_size": one.batch_size,
                    "max_length": one.max_length,
                    "bytes": one.memory and one.memory.peak,
                    "total_bytes": one.memory and one.memory.total,
                    "rows_at_once": one.memory.rows_at_once if one.memory else 0,
                }
                for one in self.memory
            ],
            "limits": list(self.limits),
            "problems": list(self.problems),
        }


def look_ahead(config: StudyConfig, dataset: Dataset, *, workers: int, step: Callable[[str], None]) -> Outlook:
    """Time and weigh what the study trains; `step` is told what is being done.

    Raises DataError, and NotMeasured if no encoder of it can be tried.
    """
    variants, problems = list[Variant](), list[str]()
    ways = ways_of(_whole(config, "trainable_layers"), _whole(config, "lora_rank"))
    tried: dict[str, Measured] = {}
    for name in map(str, field_values(config, "encoder")):
        wanted = Wanted(ways=tuple(ways), longest=_most(config, "max_length"), image_size=_most(config, "image_size"))
        step(f"timing a few steps of {name}")
        machine = tried[name] = try_encoder(config.data, located(name, config), wanted)
        shape = _shape(config, dataset, workers=workers, images=not machine.tokens)
        for way in ways:
            if way.name in machine.problems:
                problems.append(f"{name}, {way.words}: {machine.problems[way.name]}")
            elif way.name in machine.training:
                variants.append(Variant(encoder=name, way=way, takes=forecast(machine, way, shape)))
    if not variants:
        raise NotMeasured("; ".join(problems) or "no way of training could be timed")
    slowest = max(tried, key=lambda name: tried[name].forward)
    machine, way = tried[slowest], max(ways, key=_weight)
    outlook = Outlook(
        device=machine.device,
        is_busy=machine.is_busy,
        workers=workers,
        trials=most_trials(config),
        num_folds=config.folds.k,
        races=config.race.rule != "none",
        devices=min(workers, machine.num_gpus) if machine.num_gpus else workers,
        variants=tuple(variants),
        weighed=way.words if len(tried) == 1 else f"{way.words} of {slowest}",
        memory=tuple(_weigh(config, slowest, way, images=not machine.tokens, step=step)),
        limits=(),
        problems=tuple(problems),
    )
    return replace(outlook, limits=tuple(_limits(outlook, config)))


def _limits(outlook: Outlook, config: StudyConfig) -> Iterator[str]:
    """Yield the limits of the budget that the study is likely to reach before its trials are done."""
    budget, hours = config.budget, outlook.device_hours[1]
    if budget.seconds is not None and budget.seconds < outlook.seconds[1]:
        yield f"budget.time {budget.time} may end a run before that"
    if budget.gpu_hours is not None and budget.gpu_hours < hours:
        yield f"budget.gpu_hours {budget.gpu_hours:g} may end the study before that"
    if budget.money is not None and budget.price_per_hour and budget.money < hours * budget.price_per_hour:
        yield f"budget.money {budget.money:g} may end the study before that"


def _weight(way: Way) -> tuple[bool, bool, int]:
    """What sorts ways by the memory that they take: the whole encoder takes most."""
    return way.layers is None and "lora_rank" not in way.params, "lora_rank" in way.params, way.layers or 0


def _weigh(
    config: StudyConfig, name: str, way: Way, *, images: bool, step: Callable[[str], None]
) -> Iterator[StepMemory]:
    """Yield what each batch size and length takes, the smallest first."""
    encoder = located(name, config)
    size = "image_size" if images else "max_length"
    for batch_size, length in sorted(product(_values(config, "batch_size"), _values(config, size))):
        step(f"memory of a training step: batch_size {batch_size}, {size} {length}")
        wanted = Wanted(longest=length) if not images else Wanted(image_size=length)
        try:
            memory = try_memory(config.data, encoder, wanted, way, batch_size=batch_size)
        except NotMeasured:
            memory = None
        yield StepMemory(batch_size=batch_size, max_length=length, memory=memory)


def _shape(config: StudyConfig, dataset: Dataset, *, workers: int, images: bool) -> Shape:
    samplers = [str(name) for name in field_values(config, "sampler")]
    load = Load(num_rows=len(dataset.labels), most_folds=config.folds.k, embeds=not EMBEDDING.isdisjoint(samplers))
    if config.data.task == "classification":
        ratios = [float(str(ratio)) for ratio in field_values(config, "sampler_ratio")]
        counts = np.bincount(np.asarray(dataset.labels, np.int64)).tolist()
        load = replace(load, growth=mean_growth(counts, samplers, (min(ratios), max(ratios))))
    epochs = _values(config, "epochs")
    return Shape(
        load=load,
        num_folds=config.folds.k,
        epochs=(min(epochs), max(epochs)),
        max_length=0 if images else _most(config, "max_length"),
        trials=most_trials(config),
        workers=workers,
        races=config.race.rule != "none",
    )


def _values(config: StudyConfig, name: str) -> list[int]:
    return sorted({int(str(value)) for value in field_values(config, name)})


def _most(config: StudyConfig, name: str) -> int:
    return _values(config, name)[-1]


def _whole(config: StudyConfig, name: str) -> list[int | None]:
    return [None if value is None else int(str(value)) for value in field_values(config, name)]
