"""A trained model as a folder that predicts on its own: how it is written, how it is checked, and how it predicts."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from fold_search.models.classifiers import Classifier
from fold_search.models.encoders import load_encoder, load_tokenizer, quietly
from fold_search.models.images import ImageClassifier, save_processor
from fold_search.models.params import ModelParams
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.data.image_root import first_line
from fold_search.objectives.data.names import class_name
from fold_search.objectives.data.relations import read_relations
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.devices import rows_per_forward, seeded, uses_bf16
from fold_search.objectives.errors import ModelError, OutOfMemory, TrialError
from fold_search.objectives.jobs import FoldJob, Rows
from fold_search.objectives.memory import RowsAtOnce
from fold_search.objectives.params import TOKEN_CHANGES, Params
from fold_search.objectives.scoring.calibration import apply_temperature
from fold_search.objectives.scoring.metrics import Goal, Task
from fold_search.objectives.tasks.feeds import Batch, Feed, Inputs
from fold_search.objectives.tasks.preparation import prepare
from fold_search.objectives.training.networks import as_predictions

FORMAT = 1
DESCRIPTION = "model.json"
HEAD = "head.safetensors"

Form = Literal["ensemble", "refit", "fold"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def _check_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError("leads out of the model's folder")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Member(_Section):
    """One of the models in the folder; predictions are the mean of all."""

    folder: Name  # inside the exported folder
    fold: int | None  # the fold that it was not trained on; None if it was trained on all rows
    epochs: int
    score: float | None  # on its validation rows
    class_counts: tuple[int, ...]  # rows of each class that it was trained on, after resampling
    mean: Finite = 0.0  # numbers are standardised by these
    deviation: Finite = 1.0
    base: Name | None = None  # the folder of the member that has the weights which are not in head.safetensors
    checksums: dict[Name, str]  # sha256 of each file

    @property
    def scale(self) -> tuple[float, float]:
        """As FoldJob.label_scale."""
        return self.mean, self.deviation


class Described(_Section):
    """What `model.json` says of every model, a trial's or a baseline."""

    format: int = FORMAT
    form: Form
    study: str
    task: Task
    label_names: tuple[str, ...]  # in the order of the probabilities; empty for numbers
    data: DataSpec
    goal: Goal
    fold_scores: tuple[float, ...]  # on the rows that each fold was not trained on
    pooled: dict[str, float]  # metrics of the out-of-fold predictions of all rows together
    temperature: Finite = Field(gt=0)  # fitted on them
    members: tuple[Member, ...] = Field(min_length=1)
    packages: dict[str, str]
    fingerprints: dict[str, str]

    @property
    def num_outputs(self) -> int:
        """One for each class, or one number."""
        return 1 if self.task == "regression" else len(self.label_names)


class Description(Described):
    """What it says of a trial's model: all that is needed to predict, and where the model comes from."""

    trial: int
    params: Params
    max_length: int  # that texts are cut at before a model cuts them at its own
    provisional: str | None = None  # what is missing of the trial, if it is not complete
    entity_types: tuple[str, ...] = ()  # of the rows it was trained on, where they are shown to it

    @model_validator(mode="after")
    def _knows_each_whole_one(self) -> Self:
        whole = {member.folder for member in self.members if member.base is None}
        for member in self.members:
            if member.base is not None and member.base not in whole:
                raise ValueError(f"{member.folder} needs {member.base!r}, which is no whole member")
        return self


D = TypeVar("D", bound=Described)


class ExportedModel:
    """A model folder, checked; it predicts the mean of its members' predictions.

    Raises ModelError if there is no such folder, or it is damaged or was written in another format.
    """

    def __init__(self, folder: Path, *, device: str, batch_size: int | None = None) -> None:
        self.description = read_description(folder)
        self._folder = folder
        self._device = torch.device(device)
        self._at_once = RowsAtOnce(rows=batch_size or rows_per_forward(self._device), device=self._device)
        self._voters: list[tuple[Classifier, torch.nn.Module]] = []  # loaded with the first rows
        for member in self.description.members:
            check_files(folder / member.folder, member.checksums)

    def predict(
        self,
        content: Content,
        *,
        step: Callable[[str], None] = lambda name: None,
        advance: Callable[[int], None] = lambda num_rows: None,
    ) -> NDArray[np.float32]:
        """Return probabilities at the fitted temperature, (rows, classes), or numbers, (rows, 1).

        `step` is told what is done, `advance` how many more rows are predicted. Raises DataError if the rows are of
        another kind than those that the model was trained on, EncoderError, and ModelError if not even one row at a
        time fits into memory.
        """
        params = self._params(self.description.members[0])
        if content.spec.relation is not None:
            read_relations(content, form=params.model.entity_form, known_types=self.description.entity_types)
        step("preparing images" if content.spec.kind == "image" else "tokenising rows")
        with TemporaryDirectory() as cache:
            inputs = prepare(
                content,
                params=params.model,
                max_length=self.description.max_length,
                cache=Path(cache),
                device=str(self._device),
            )
            job = self._job(params, num_rows=len(content.texts))
            if not self._voters:
                step("loading the model")
                self._voters = self._load_all(inputs, job)
            step("predicting")
            votes = self._votes(inputs.feed(job, device=str(self._device)), np.arange(len(content.texts)), advance)
        mean: NDArray[np.float32] = votes.mean(axis=0)
        if self.description.task == "regression":
            return mean
        return apply_temperature(mean, self.description.temperature).astype(np.float32)

    @torch.inference_mode()
    def _votes(self, feed: Feed, rows: Rows, advance: Callable[[int], None]) -> NDArray[np.float32]:
        """Return each member's predictions, (members, rows, outputs)."""
        votes = np.empty((len(self._voters), len(rows), self.description.num_outputs), np.float32)
        order = np.argsort(feed.lengths(rows), kind="stable")
        advance(0)
        try:
            for chosen, predictions in self._at_once.in_parts(order, lambda some: self._votes_at_once(feed, some)):
                votes[:, chosen] = predictions
                advance(len(chosen))
        except OutOfMemory as error:
            raise ModelError(f"{self._folder}: not even one row at a time fits into memory: {error}") from None
        return votes

    def _votes_at_once(self, feed: Feed, rows: Rows) -> NDArray[np.float32]:
        batch = {name: tensor.to(self._device) for name, tensor in feed.batch(rows).items()}
        voted = zip(self._outputs(batch), self.description.members, strict=True)
        task = self.description.task
        return np.stack([as_predictions(outputs, task=task, scale=own.scale).cpu().numpy() for outputs, own in voted])

    def _outputs(self, batch: Batch) -> Iterator[Tensor]:
        """Yield each member's outputs, (rows, outputs), in float32."""
        pooled: dict[Classifier, Tensor] = {}
        bf16 = uses_bf16(self.description.params.training.precision, self._device)
        for body, head in self._voters:
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16):
                if body not in pooled:
                    pooled[body] = body.pooled(**batch)
                outputs: Tensor = head(pooled[body])
            yield outputs.float()

    def _load_all(self, inputs: Inputs, job: FoldJob) -> list[tuple[Classifier, torch.nn.Module]]:
        """Return for each member the model that makes its pooled states, and its head. Equal models are shared."""
        voters: list[tuple[Classifier, torch.nn.Module]] = []
        for member in self.description.members:
            classifier = self._load(member, inputs, job)
            body = next((body for body, _ in voters if _is_same_below_the_head(body, classifier)), classifier)
            voters.append((body, classifier.head))
        return voters

    def _load(self, member: Member, inputs: Inputs, job: FoldJob) -> Classifier:
        job = replace(job, params=self._params(member))
        classifier = _build(job, inputs, device=str(self._device))
        path = self._folder / member.folder / HEAD
        try:
            weights = load_file(path)
            if member.base is not None:
                weights = load_file(self._folder / member.base / HEAD) | weights
            left_out, unknown = classifier.load_state_dict(weights, strict=False)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(f"{path}: is damaged: {first_line(error)}") from error
        wrong = [*unknown, *(name for name in left_out if not name.startswith(_of_encoder(classifier)))]
        if wrong:
            raise ModelError(f"{path}: does not fit the model: {wrong[0]} ({len(wrong)} weights in all)")
        torch.nn.Module.to(classifier, self._device)
        return classifier.eval()

    def _params(self, member: Member) -> Params:
        """The trial's parameters with the member's own encoder; low-rank updates are part of its weights by now."""
        params = _plain(self.description.params)
        model = {"encoder": str(self._folder / (member.base or member.folder)), "lora_rank": None, "reinit_layers": 0}
        return params.model_copy(update={"model": params.model.model_copy(update=model)})

    def _job(self, params: Params, *, num_rows: int) -> FoldJob:
        return FoldJob(
            params=params,
            goal=self.description.goal,
            labels=np.zeros(num_rows, np.int64),
            label_names=self.description.label_names,
            training_rows=np.arange(num_rows),
            validation_rows=np.empty(0, np.int64),
            seed=0,
        )


def read_description(folder: Path) -> Description:
    """Return what the folder's model.json says; raises ModelError if there is none that this version understands."""
    return parse_description(folder, read_model_json(folder), Description)


def read_model_json(folder: Path) -> dict[str, Any]:
    """Return the content of model.json; raises ModelError if there is none, or one of another format."""
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{folder}: is not an exported model: it has no {DESCRIPTION}") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: is damaged: not JSON") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ModelError(
            f"{path}: found format {found!r}, expected {FORMAT}: the model was exported by another version"
        )
    return dict(content)


def parse_description(folder: Path, content: Mapping[str, Any], kind: type[D]) -> D:
    """Return the content of model.json as what it describes; raises ModelError if it is damaged."""
    path = folder / DESCRIPTION
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        [problem, *_] = error.errors(include_url=False)
        place = ".".join(class_name(str(key)) for key in problem["loc"])  # a key may hold anything, such as line breaks
        if problem["type"] == "extra_forbidden":
            raise ModelError(f"{path}: found {place}, which is not known here: a newer version exported it") from None
        raise ModelError(f"{path}: is damaged: {place}: {problem['msg']}") from None


def trained_classifier(job: FoldJob, weights: Mapping[str, Tensor], *, inputs: Inputs, device: str) -> Classifier:
    """Return the whole classifier of a job with the weights that its training kept, as a plain model.

    Raises EncoderError, and TrialError if the weights do not fit.
    """
    classifier = _build(replace(job, params=_plain(job.params)), inputs, device=device)
    unknown = classifier.load_state_dict(dict(weights), strict=False).unexpected_keys
    if unknown:
        raise TrialError(f"the weights do not fit the model: {unknown[0]} ({len(unknown)} in all)")
    return classifier.merged()


def has_frozen_weights(params: ModelParams) -> bool:
    """Whether training leaves some of the encoder's weights unchanged, so that the models of all folds share them."""
    return params.trainable_layers is not None or params.lora_rank is not None


def write_difference(classifier: Classifier, folder: Path, *, base: Classifier) -> dict[str, str]:
    """Write the weights that differ from those of `base` into the folder's head.safetensors; return its sha256."""
    folder.mkdir()
    known = base.state_dict()
    differing = {
        name: tensor for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, known[name])
    }
    _save(differing, folder / HEAD)
    return {HEAD: digest_file(folder / HEAD)}


def write_classifier(classifier: Classifier, folder: Path, *, encoder: str) -> dict[str, str]:
    """Write a folder that `from_pretrained` loads as the encoder; all other weights go into head.safetensors.

    `encoder` names the pretrained model. If the classifier has several encoders, the folder has the pretrained model,
    and theirs are among the other weights. Returns the sha256 of each file.
    """
    inner = _of_encoder(classifier)
    body: Any = classifier.encoder if inner else load_encoder(encoder)
    with quietly():
        body.save_pretrained(folder)
    if isinstance(classifier, ImageClassifier):
        save_processor(folder, encoder, image_size=classifier.image_size)
    else:
        tokenizer = load_tokenizer(encoder)
        classifier.complete(tokenizer)
        with quietly():
            tokenizer.save_pretrained(folder)
    rest = {name: tensor for name, tensor in classifier.state_dict().items() if not name.startswith(inner)}
    _save(rest, folder / HEAD)
    for path in folder.glob("*.safetensors"):
        _open_like_its_folder(path)
    return {path.name: digest_file(path) for path in sorted(folder.iterdir()) if path.is_file()}


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    # Copies: safetensors refuses tensors that share their memory.
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}, path)
    _open_like_its_folder(path)


def _open_like_its_folder(path: Path) -> None:
    """Give a file the permissions of its folder: safetensors lets only the owner read it."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def _build(job: FoldJob, inputs: Inputs, *, device: str) -> Classifier:
    scale = job.params.training.cosine_scale
    with seeded(0, 0, torch.device("cpu")):
        return inputs.feed(job, device=device).build(num_outputs=job.num_outputs, scale=scale)


def _plain(params: Params) -> Params:
    """The params of the same model as a whole, without what only training needs, whichever part was trained."""
    model = params.model.model_copy(update={"trainable_layers": None, "gradient_checkpointing": False})
    training = params.training.model_copy(update=dict.fromkeys((*TOKEN_CHANGES, "image_augmentation"), 0.0))
    return params.model_copy(update={"model": model, "training": training})


def _of_encoder(classifier: Classifier) -> tuple[str, ...]:
    """The prefix of the weights' names that are in the encoder's own file."""
    return ("encoder.",) if isinstance(getattr(classifier, "encoder", None), PreTrainedModel) else ()


def _is_same_below_the_head(one: Classifier, other: Classifier) -> bool:
    """Whether both have the same pooled states, because nothing below their heads was trained."""
    weights, others = (
        {name: tensor for name, tensor in classifier.state_dict().items() if not name.startswith("head.")}
        for classifier in (one, other)
    )
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def check_files(folder: Path, checksums: Mapping[str, str]) -> None:
    """Raise ModelError if a file is missing or has another sha256."""
    for name, expected in checksums.items():
        try:
            found = digest_file(folder / name)
        except OSError as error:
            raise ModelError(f"{folder / name}: cannot be read: {error.strerror}") from None
        if found != expected:
            raise ModelError(f"{folder / name}: is damaged: found sha256 {found[:12]}, expected {expected[:12]}")


def digest_file(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
