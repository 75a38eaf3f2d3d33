"""The ways to train an encoder, from the whole of it to a head alone, and the params that stand for each."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from fold_search.models.params import Scalar

TOP_LAYERS = 2
LORA_RANK = 8
RANDOM_RATES = (3e-4, 5e-3)  # learning rates worth searching for weights that start random


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way: what of the encoder is trained."""

    name: str
    words: str
    params: dict[str, Scalar] = field(default_factory=dict)  # of the study file's `model:` section
    rates: tuple[float, float] = (1e-5, 1e-3)  # learning rates worth searching
    most_epochs: int = 20
    steps: int = 1500  # optimiser steps of a training that is long enough
    fewest_steps: int = 500  # and of one that is just about

    @property
    def layers(self) -> int | None:
        """How many of the top layers are trained; None: all of them, or low-rank updates in all."""
        return self.params.get("trainable_layers")  # type: ignore[return-value]

    def epochs(self, steps_per_epoch: int) -> tuple[int, int]:
        """Return how many epochs a training has, where time is short and where it is not."""
        return tuple(  # type: ignore[return-value]
            min(self.most_epochs, max(3, round(steps / max(1, steps_per_epoch))))
            for steps in (self.fewest_steps, self.steps)
        )


# The strongest first: with enough time the first one wins on most data.
WAYS = {
    way.name: way
    for way in (
        Way(name="whole", words="the whole encoder"),
        Way(name="lora", words="LoRA", params={"lora_rank": LORA_RANK}, rates=(1e-4, 3e-3)),
        Way(name="top", words=f"the top {TOP_LAYERS} layers", params={"trainable_layers": TOP_LAYERS}),
        Way(
            name="head",
            words="a head on the frozen encoder",
            params={"trainable_layers": 0},
            rates=(1e-3, 5e-2),
            most_epochs=40,
            steps=4000,
            fewest_steps=1500,
        ),
    )
}


def ways_of(layers: Iterable[int | None], ranks: Collection[int | None]) -> list[Way]:
    """Return the ways that a study with these trainable_layers and lora_ranks trains, each once."""
    top, ways = WAYS["top"], []
    for number in dict.fromkeys(layers):
        if number is None or number == 0:
            ways.append(WAYS["whole" if number is None else "head"])
        else:
            words = f"the top {number} layers" if number > 1 else "the top layer"
            ways.append(replace(top, name=f"top-{number}", words=words, params={"trainable_layers": number}))
    low = [
        replace(WAYS["lora"], name=f"lora-{rank}", words=f"LoRA of rank {rank}", params={"lora_rank": rank})
        for rank in dict.fromkeys(ranks)
        if rank is not None
    ]
    return [*low, *(ways if None in ranks else [])]
