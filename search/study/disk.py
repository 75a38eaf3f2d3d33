"""The disk space that a study will need, estimated before it begins and compared with what is free."""

import json
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from fold_search.objectives.data.dataset import Dataset
from fold_search.search.errors import ConfigError
from fold_search.search.study.config import StudyConfig
from fold_search.search.study.space import field_values, most_trials

FLOAT = 4  # bytes
CHARACTERS_A_TOKEN = 4
CLOSE = 0.8  # of what is free
_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|stages)\.(\d+)\.")
_STATES = {"adamw": 2, "sgd": 1, "schedule_free_adamw": 2}  # numbers that an optimiser keeps of each weight


_Variant = tuple[str, int | None, int | None]  # an encoder, its trained layers, its rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The bytes that one kind of file takes at least and at most."""

    what: str
    place: str
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSize:
    """Number of weights: of the encoder, of one layer, and of low-rank updates of rank 1 in all layers."""

    weights: int
    layer: int
    rank: int
    width: int


def check_disk(
    config: StudyConfig, dataset: Dataset, *, encoders: Mapping[str, EncoderSize], num_workers: int
) -> list[str]:
    """Return a line per disk: what a new study will need, and what is free; raises ConfigError if it cannot fit.

    An estimate, without the head. Only local folders are checked.
    """
    trained = [_trained(encoders[variant[0]], variant) * FLOAT for variant in _variants(config)]
    needs = _artifact_needs(config, dataset, trained, num_workers=num_workers)
    by_disk: dict[int, list[Need]] = defaultdict(list)
    for need in (*needs, _cache_need(config, dataset, encoders)):
        if "://" not in need.place:
            by_disk[_existing(need.place).stat().st_dev].append(need)
    lines = []
    for on_disk in by_disk.values():
        folder = _existing(on_disk[0].place)
        free = shutil.disk_usage(folder).free
        kinds = ", ".join(f"{need.what} {decimal(need.most)}" for need in on_disk)
        least, most = sum(need.least for need in on_disk), sum(need.most for need in on_disk)
        if least > free:
            raise ConfigError(
                f"{folder}: the study needs at least {decimal(least)} of disk space, found {decimal(free)} free; "
                "storage.artifacts and storage.cache can be put on another disk"
            )
        line = f"disk: the study needs at most about {decimal(most)} ({kinds}); {decimal(free)} are free"
        if most > CLOSE * free:
            line += ". That is close: to need less, lower artifacts.paused_checkpoints or set artifacts.keep to none"
        lines.append(line)
    return lines


def _artifact_needs(
    config: StudyConfig, dataset: Dataset, trained: Sequence[int], *, num_workers: int
) -> Iterator[Need]:
    """Yield what checkpoints, weights and predictions take; `trained` are the bytes that a trial may train."""
    artifacts = config.storage.artifacts.removeprefix("file://")
    trials, num_folds, paired = most_trials(config), config.folds.k, config.race.rule == "paired"
    states = [
        2 + _STATES[str(optimiser)] + (average is not None)  # the weights now and at the best epoch, and the others
        for optimiser, average in product(field_values(config, "optimiser"), field_values(config, "ema_decay"))
    ]
    paused = config.artifacts.paused_checkpoints if paired else 0
    # There are two while a third one is written. More fold runs than this are seldom paused: docs/storage.md.
    most = (3 * num_workers + min(paused, int(1.3 * trials))) * max(trained) * max(states)
    yield Need(what="checkpoints", place=artifacts, least=2 * min(trained) * min(states), most=most)
    if config.artifacts.keep != "none":
        kept = {"best": 1, "top": config.artifacts.top, "all": trials}[config.artifacts.keep]
        # Trials that have not ended keep theirs; paused ones have a fold or more that is done.
        folds = num_folds * min(trials, kept + num_workers) + (trials if paired else 0)
        yield Need(what="weights", place=artifacts, least=num_folds * min(trained), most=folds * max(trained))
    predictions = len(dataset.labels) * dataset.num_outputs * FLOAT
    yield Need(what="predictions", place=artifacts, least=predictions, most=predictions * trials)


def _cache_need(config: StudyConfig, dataset: Dataset, encoders: Mapping[str, EncoderSize]) -> Need:
    """Tokens and, of layers that are not trained, their states; or images' pixels."""
    rows, place = len(dataset.labels), config.storage.cache
    if config.data.image is not None:
        sizes = [3 * int(str(size)) ** 2 * rows for size in field_values(config, "image_size")]
        return Need(what="images", place=place, least=min(sizes), most=sum(sizes))
    longest = max(int(str(length)) for length in field_values(config, "max_length"))
    tokens = sum(min(longest, 2 + len(text) // CHARACTERS_A_TOKEN) for text in dataset.texts)
    most = tokens * 4
    for encoder, layers, _ in _variants(config):
        width = encoders[encoder].width
        if layers == 0:
            most += rows * width * FLOAT * len(field_values(config, "pooling"))
        elif layers is not None:
            most += tokens * width * FLOAT
    return Need(what="cache", place=place, least=0, most=most)


def _variants(config: StudyConfig) -> list[_Variant]:
    """Each encoder with each number of trained layers and rank that a trial may have."""
    names = ("encoder", "trainable_layers", "lora_rank")
    return [
        (str(encoder), *(None if value is None else int(str(value)) for value in rest))  # type: ignore[misc]
        for encoder, *rest in product(*(field_values(config, name) for name in names))
    ]


def weigh(encoder: str) -> EncoderSize:
    """Read the encoder's size without its weights; zeros if its files do not show it. Loads torch."""
    from fold_search.models.encoders import resolve_encoder
    from fold_search.models.errors import EncoderError

    everything, by_layer, by_rank = 0, defaultdict[str, int](int), 0
    try:
        folder = resolve_encoder(encoder.removeprefix("config:"))
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for name, shape in _shapes(folder):
            number = math.prod(shape)
            everything += number
            if (layer := _LAYER.search(name)) is not None:
                by_layer[layer[1]] += number
                by_rank += sum(shape) if len(shape) == 2 else 0
    except (EncoderError, OSError, ValueError):
        return EncoderSize(weights=0, layer=0, rank=0, width=0)
    width = next((int(settings[name]) for name in ("hidden_size", "dim", "d_model", "n_embd") if settings.get(name)), 0)
    return EncoderSize(weights=everything, layer=max(by_layer.values(), default=0), rank=by_rank, width=width)


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _trained(encoder: EncoderSize, variant: _Variant) -> int:
    """About how many weights are trained."""
    _, layers, rank = variant
    if rank is not None:
        return rank * encoder.rank
    return encoder.weights if layers is None else layers * encoder.layer


def _existing(place: str) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = Path(place).absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
