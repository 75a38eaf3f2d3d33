"""Times a few real steps of an encoder on this machine, on rows of the user's data. Loads torch."""

import math
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fold_search.models.abilities import check_encoder, longest_text, try_family
from fold_search.models.encoders import load_config, load_tokenizer
from fold_search.models.errors import EncoderError
from fold_search.models.images import check_image_encoder
from fold_search.models.params import ModelParams
from fold_search.objectives.cores import usable_cores, usable_memory
from fold_search.objectives.data.dataset import Dataset, read_dataset
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import OutOfMemory, TrialError
from fold_search.objectives.jobs import FoldJob
from fold_search.objectives.loss_params import REGRESSION_LOSSES
from fold_search.objectives.params import Params, TrainingParams
from fold_search.objectives.scoring.metrics import Goal
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.training.fold import FoldTraining
from fold_search.objectives.training.timing import time_steps
from fold_search.search.drafting.measured import Measured, Memory, Wanted
from fold_search.search.drafting.ways import WAYS, Way

SAMPLED_ROWS = 2000
BUSY = 1.5  # processes a core
PREPARED_IMAGES = 200
STEPS = 3  # of a way; the first does not count
WAY_SECONDS = 5.0  # for the steps of a way
MOST_TOKENS = {"cpu": 256, "cuda": 512}
BATCH_SIZE = {"cpu": 16, "cuda": 32}
LEAST_RATIO = 1.2  # of the longest texts to the usual ones, to see how time grows with length

Rows = NDArray[np.int64]


def measure(spec: DataSpec, encoder: str, wanted: Wanted, *, asked: float, seconds: float) -> Measured:
    """Time ways of training `encoder` on rows of the data, for at most about `seconds`.

    `asked` is when this process was asked for, in seconds since 1970. Raises DataError, EncoderError, OutOfMemory if
    not even one row can be passed forward.
    """
    start = time.time() - asked
    with _probe(spec, encoder, wanted, seconds=seconds) as probe:
        return probe.read(start=start)


def measure_memory(spec: DataSpec, encoder: str, wanted: Wanted, way: Way, *, batch_size: int) -> Memory:
    """Train a step on the longest rows and return what memory it takes. Raises as `measure` does.

    On a CPU that is all memory of the process at its peak, where the system tells (Linux), on a GPU what torch has
    allocated there.
    """
    with _probe(spec, encoder, wanted, seconds=math.inf) as probe:
        return probe.peak(way, batch_size=batch_size)


@contextmanager
def _probe(spec: DataSpec, encoder: str, wanted: Wanted, *, seconds: float) -> Iterator["_Probe"]:
    dataset = read_dataset(spec)
    chosen = np.random.default_rng(0).permutation(len(dataset.texts))[:SAMPLED_ROWS]
    with tempfile.TemporaryDirectory(prefix="fold-search-") as cache:
        yield _Probe(
            dataset=_subset(dataset, np.resize(chosen, max(2, len(chosen)))),
            encoder=encoder,
            device="cuda:0" if torch.cuda.is_available() else "cpu",
            cache=Path(cache),
            deadline=time.perf_counter() + seconds,
            wanted=wanted,
            is_busy=os.getloadavg()[0] > BUSY * usable_cores(),
        )


def describe_machine() -> str:
    """Return what trains here, in words."""
    count = torch.cuda.device_count()
    if not count:
        return f"CPU, {usable_cores()} cores"
    name = torch.cuda.get_device_name(0)
    return name if count == 1 else f"{count} x {name}"


@dataclass(slots=True, kw_only=True)
class _Probe:
    dataset: Dataset  # a sample of the rows
    encoder: str
    device: str
    cache: Path
    deadline: float  # by time.perf_counter
    wanted: Wanted
    is_busy: bool
    _preparing: float = 0.0

    def read(self, *, start: float) -> Measured:
        lengths, unknown, longest, num_layers = self._look()
        order = np.argsort(np.minimum(lengths, longest or 1), kind="stable")
        batch_size = BATCH_SIZE[self._kind]
        # Rows of median length, and the longest; one more than a batch, which is validated.
        usual = order[len(order) // 2 :][: batch_size + 1]
        tokens = int(min(lengths[usual[0]], longest))
        began = time.perf_counter()
        whole = self._training(WAYS["whole"], usual, longest)
        loading = time.perf_counter() - began
        forward = self._forward(whole, rows=len(usual))
        growth = 1.0
        ratio = min(lengths[order[-1]], longest) / tokens if tokens else 1.0
        if ratio > LEAST_RATIO and self._is_time():
            longest_rows = order[-len(usual) :]
            most = self._forward(self._training(WAYS["whole"], longest_rows, longest), rows=len(longest_rows))
            growth = min(2.0, max(0.5, math.log(most / forward) / math.log(ratio)))
        del whole
        rows_a_step = max(1, min(batch_size, int(WAY_SECONDS / (STEPS * 3 * forward))))
        training, problems, estimated = {}, dict[str, str](), list[str]()
        for way in filter(self._is_for, reversed(self.wanted.ways)):
            training[way.name] = _guess(way, forward, num_layers)
            if not self._is_time():
                estimated.append(way.name)
                continue
            try:
                training[way.name] = self._step(way, usual, longest, batch_size=rows_a_step)
            except OutOfMemory:
                problems[way.name] = "memory does not suffice"
            except (EncoderError, TrialError) as error:
                problems[way.name] = str(error)
        return Measured(
            device=describe_machine(),
            num_gpus=torch.cuda.device_count(),
            is_busy=self.is_busy,
            start=start,
            batch_size=batch_size,
            tokens=tokens,
            longest=longest,
            training=training,
            estimated=tuple(estimated),
            forward=forward,
            preparing=self._preparing,
            loading=loading,
            growth=growth,
            lengths=lengths,
            unknown=unknown,
            num_layers=num_layers,
            problems=problems,
        )

    def peak(self, way: Way, *, batch_size: int) -> Memory:
        """Return the memory of a step on the longest rows."""
        lengths, _, longest, _ = self._look()
        order = np.argsort(np.minimum(lengths, longest or 1), kind="stable")
        rows_at_once = [batch_size]
        _forget_peak(self.device)
        training = self._training(
            way,
            order[-batch_size - 1 :],
            longest,
            batch_size=batch_size,
            remember=lambda _, rows: rows_at_once.append(rows),
        )
        time_steps(training, steps=1, seconds=math.inf)
        return Memory(peak=_peak(self.device), total=_total(self.device), rows_at_once=rows_at_once[-1])

    @property
    def _kind(self) -> str:
        return self.device.partition(":")[0]

    def _is_time(self) -> bool:
        return time.perf_counter() < self.deadline

    def _is_for(self, way: Way) -> bool:
        """Weights that are random by now are trained all together; images have no low-rank updates."""
        if self.dataset.spec.kind != "image":
            return True
        return way == WAYS["whole"] or ("lora_rank" not in way.params and not self.encoder.startswith("config:"))

    def _look(self) -> tuple[NDArray[np.int64], float, int, int]:
        """Return the sampled rows' tokens, the share of unknown ones, the longest text that is read, and the layers."""
        spec = self.dataset.spec
        if spec.kind == "image":
            few = _subset(self.dataset, np.arange(min(len(self.dataset.texts), PREPARED_IMAGES)))
            model = ModelParams(encoder=self.encoder, image_size=self.wanted.image_size)
            check_image_encoder(self.encoder, image_size=self.wanted.image_size)
            began = time.perf_counter()
            prepare(few, params=model, max_length=1, cache=self.cache, device=self.device)
            self._preparing = (time.perf_counter() - began) / len(few.texts)
            return np.ones(len(self.dataset.texts), np.int64), 0.0, 0, 0
        check_encoder(self.encoder)
        tokenizer, config = load_tokenizer(self.encoder), load_config(self.encoder)
        texts = self.dataset.columns[spec.relation.sentence] if spec.relation else self.dataset.texts
        began = time.perf_counter()
        ids = [np.array(row, np.int64) for row in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
        self._preparing = (time.perf_counter() - began) / len(ids)
        every = np.concatenate(ids)
        unknown = float((every == tokenizer.unk_token_id).mean()) if tokenizer.unk_token_id is not None else 0.0
        positions = longest_text(config, try_family(config)) or tokenizer.model_max_length
        longest = min(self.wanted.longest or MOST_TOKENS[self._kind], tokenizer.model_max_length, positions)
        return np.array([max(1, len(row)) for row in ids]), unknown, longest, int(config.num_hidden_layers)

    def _training(
        self,
        way: Way,
        rows: Rows,
        longest: int,
        *,
        batch_size: int = 1,
        remember: Callable[[str, int], None] = lambda shape, rows: None,
    ) -> FoldTraining:
        """Return a training on some of the sampled rows, repeated if they are fewer than its steps need."""
        few = _subset(self.dataset, np.resize(rows, max(2, len(rows))))
        model = ModelParams(encoder=self.encoder, **self._sizes(longest), **way.params)
        numeric = self.dataset.spec.task == "regression"
        settings = TrainingParams(batch_size=batch_size, loss=REGRESSION_LOSSES[0] if numeric else "cross_entropy")
        inputs = prepare(few, params=model, max_length=longest or 128, cache=self.cache, device=self.device)
        metric = "mae" if numeric else "accuracy"
        job = FoldJob(
            params=Params(model=model, training=settings),
            goal=Goal(metric=metric, epoch_metric=metric),
            labels=few.labels,
            label_names=tuple(few.label_names),
            training_rows=np.resize(np.arange(len(few.texts) - 1), (STEPS + 1) * batch_size),
            validation_rows=np.arange(len(few.texts) - 1, len(few.texts)),
            seed=0,
        )
        return FoldTraining(job, inputs=inputs, device=self.device, remember=remember)

    def _sizes(self, longest: int) -> dict[str, int]:
        return {"max_length": longest} if longest else {"image_size": self.wanted.image_size}

    def _forward(self, training: FoldTraining, *, rows: int) -> float:
        """Return the seconds of a row in a forward pass of the first `rows` rows; the faster of two passes."""
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            training.predict(np.arange(rows))
            taken.append(time.perf_counter() - began)
        return min(taken) / rows

    def _step(self, way: Way, rows: Rows, longest: int, *, batch_size: int) -> float:
        """Return the seconds of a row in a training step."""
        training = self._training(way, rows, longest, batch_size=batch_size)
        first, *others = time_steps(training, steps=STEPS, seconds=WAY_SECONDS)
        return min(others or [first]) / batch_size


def _forget_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # some containers do not let a process do this: then all that it ever held counts
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: str) -> int:
    """Return the bytes that were held at most."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _total(device: str) -> int:
    """Return the bytes that there are."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return usable_memory()


def _guess(way: Way, forward: float, num_layers: int) -> float:
    """Return about how many seconds of a row a training step takes: three forward passes of what is trained."""
    share = 1.0 if way.layers is None else way.layers / max(num_layers, way.layers, 1)
    return 3.0 * forward * max(share, 0.01)


def _subset(dataset: Dataset, rows: Rows) -> Dataset:
    """Return some rows of a data set, as one that stands for itself."""
    return replace(
        dataset,
        texts=[dataset.texts[row] for row in rows],
        columns={name: [cells[row] for row in rows] for name, cells in dataset.columns.items()},
        labels=dataset.labels[rows],
        strata=dataset.strata[rows],
        contents=dataset.contents[rows],
        groups=dataset.groups[rows],
        rows=dataset.rows[rows],
        num_extra=0,
    )
