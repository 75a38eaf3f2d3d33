"""The optimisers against their libraries; learning rates by layer, the average of the weights, exact resumption."""

import pytest
import schedulefree
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from fold_search.objectives.errors import TrialError
from fold_search.objectives.params import TrainingParams
from fold_search.objectives.training.checkpoints import pack, unpack
from fold_search.objectives.training.optimisers import Optimiser

DEPTHS = {"head.weight": 0, "head.bias": 0, "norm.weight": 1, "norm.bias": 1, "body.weight": 2, "unused": 2}
OPTIMISERS = [("adamw", None), ("adamw", 0.9), ("sgd", None), ("sgd", 0.9), ("schedule_free_adamw", None)]
FACTORS = [0.25, 0.5, 0.75, 1.0, 0.9, 0.7, 0.4, 0.1]
WARM_UP_ONLY = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


class TinyModel(nn.Module):
    """Matrices, vectors, and a weight that never has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(3, 5, bias=False)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 2)
        self.unused = nn.Parameter(torch.ones(2, 2))

    def forward(self, rows):
        return self.head(self.norm(self.body(rows)))


def make_params(optimiser: str, **settings) -> TrainingParams:
    return TrainingParams(optimiser=optimiser, **({"learning_rate": 0.05, "weight_decay": 0.1} | settings))


def make_optimiser(model: nn.Module, params: TrainingParams) -> Optimiser:
    return Optimiser(dict(model.named_parameters()), params=params, depths=DEPTHS)


def backward(model: nn.Module, step: int) -> None:
    """Leave the gradients of a batch that `step` decides."""
    random = torch.Generator().manual_seed(step)
    rows, labels = torch.randn(7, 3, generator=random), torch.randint(2, (7,), generator=random)
    nn.functional.cross_entropy(model(rows), labels).backward()


def train(model: nn.Module, optimiser: Optimiser, steps: range) -> None:
    for step in steps:
        model.zero_grad()
        backward(model, step)
        optimiser.step(FACTORS[step])


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def build_library(model: nn.Module, params: TrainingParams) -> torch.optim.Optimizer:
    """The library's optimiser as one would write it down: one parameter group per weight."""
    groups = [
        {
            "params": [weight],
            "lr": params.learning_rate * params.layer_decay ** DEPTHS[name],
            "weight_decay": params.weight_decay if name.endswith(("head.weight", "body.weight")) else 0.0,
        }
        for name, weight in model.named_parameters()
    ]
    if params.optimiser == "adamw":
        return AdamW(groups)
    if params.optimiser == "sgd":
        return SGD(groups, momentum=params.momentum)
    return schedulefree.AdamWScheduleFree(groups, warmup_steps=4)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_trajectory_is_that_of_torchs_optimiser_under_torchs_scheduler(optimiser, layer_decay):
    """Every weight follows its layer's learning rate times the step's factor."""
    params = make_params(optimiser, layer_decay=layer_decay, momentum=0.8)
    ours, theirs = TinyModel(), TinyModel()
    train(ours, make_optimiser(ours, params), range(8))
    library = build_library(theirs, params)
    scheduler = torch.optim.lr_scheduler.LambdaLR(library, FACTORS.__getitem__)
    for step in range(8):
        library.zero_grad()
        backward(theirs, step)
        library.step()
        if step < 7:
            scheduler.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_schedule_free_is_the_librarys_with_its_own_warm_up(layer_decay):
    """The warm-up comes by our factors, once, and evaluation sees the library's evaluation weights."""
    params = make_params("schedule_free_adamw", layer_decay=layer_decay)
    ours, theirs = TinyModel(), TinyModel()
    optimiser, library = make_optimiser(ours, params), build_library(theirs, params)
    library.train()
    for step, factor in enumerate(WARM_UP_ONLY):
        for model in (ours, theirs):
            model.zero_grad()
            backward(model, step)
        optimiser.step(factor)
        library.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)
    library.eval()
    with optimiser.averaged():
        torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)
    assert (weights(ours)["head.weight"] - weights(theirs)["head.weight"]).abs().max() > 1e-3


def test_matrices_decay_at_their_layers_rate_and_vectors_do_not():
    """Without gradients AdamW only decays: by learning rate x factor x layer decay ** depth x weight decay."""
    model = TinyModel()
    before = weights(model)
    optimiser = make_optimiser(model, make_params("adamw", learning_rate=0.2, weight_decay=0.5, layer_decay=0.5))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimiser.step(0.8)
    after = weights(model)
    assert {name: (after[name] / before[name]).mean().item() for name in before if after[name].all()} == pytest.approx(
        {"head.weight": 0.92, "body.weight": 0.98, "unused": 0.98, "norm.weight": 1.0, "head.bias": 1.0}
    )


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_the_average_is_torchs_and_begins_with_the_first_step(optimiser):
    """As AveragedModel, which is given the weights from the first step on."""
    model = TinyModel()
    ours = make_optimiser(model, make_params(optimiser, ema_decay=0.7))
    theirs = AveragedModel(model, avg_fn=get_ema_avg_fn(0.7))
    with ours.averaged():
        torch.testing.assert_close(weights(model), weights(TinyModel()), rtol=0, atol=0)
    for step in range(8):
        train(model, ours, range(step, step + 1))
        theirs.update_parameters(model)
        with ours.averaged():
            torch.testing.assert_close(weights(model), weights(theirs.module))
    assert (weights(model)["head.weight"] - weights(theirs.module)["head.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize(("optimiser", "ema_decay"), OPTIMISERS)
def test_looking_at_the_average_changes_no_bit_of_the_training(optimiser, ema_decay):
    """Also when the look ends in an error."""
    params = make_params(optimiser, ema_decay=ema_decay)
    looked, plain = TinyModel(), TinyModel()
    looking, not_looking = make_optimiser(looked, params), make_optimiser(plain, params)
    for step in range(8):
        train(looked, looking, range(step, step + 1))
        with pytest.raises(ZeroDivisionError), looking.averaged():
            raise ZeroDivisionError
    train(plain, not_looking, range(8))
    torch.testing.assert_close(weights(looked), weights(plain), rtol=0, atol=0)


@pytest.mark.parametrize("saved_after", [0, 1, 5])
@pytest.mark.parametrize(("optimiser", "ema_decay"), OPTIMISERS)
def test_resumed_training_is_undisturbed_training_to_the_last_bit(optimiser, ema_decay, saved_after):
    """Through a checkpoint, into an optimiser that has trained something else, with layers of different rates."""
    params = make_params(optimiser, layer_decay=0.7, ema_decay=ema_decay)
    undisturbed, resumed = TinyModel(), TinyModel()
    first, second = make_optimiser(undisturbed, params), make_optimiser(resumed, params)
    train(resumed, second, range(3))
    train(undisturbed, first, range(saved_after))
    tensors, numbers = unpack(pack(first.tensors(), first.numbers()))
    resumed.load_state_dict(weights(undisturbed))
    second.restore(tensors, numbers)
    train(undisturbed, first, range(saved_after, 8))
    train(resumed, second, range(saved_after, 8))
    torch.testing.assert_close(weights(resumed), weights(undisturbed), rtol=0, atol=0)
    with first.averaged(), second.averaged():
        torch.testing.assert_close(weights(resumed), weights(undisturbed), rtol=0, atol=0)
    torch.testing.assert_close(second.tensors(), first.tensors(), rtol=0, atol=0)
    assert second.numbers() == first.numbers()


@pytest.mark.parametrize(("optimiser", "ema_decay"), OPTIMISERS)
def test_every_part_of_a_checkpoint_is_needed(optimiser, ema_decay):
    """Whatever is missing or of another shape is named or counted, and nothing has changed."""
    params = make_params(optimiser, ema_decay=ema_decay)
    model = TinyModel()
    ours = make_optimiser(model, params)
    train(model, ours, range(2))
    tensors, numbers = unpack(pack(ours.tensors(), ours.numbers()))
    train(model, ours, range(2, 4))
    before = {name: tensor.clone() for name, tensor in ours.tensors().items()}
    for name, tensor in tensors.items():
        with pytest.raises(TrialError, match=f"{len(tensors) - 1} of its {len(tensors)} tensors"):
            ours.restore({other: value for other, value in tensors.items() if other != name}, numbers)
        with pytest.raises(TrialError, match=rf"{name} has shape .* expected"):
            ours.restore(tensors | {name: torch.stack([tensor, tensor])}, numbers)
    for name in numbers:
        with pytest.raises(TrialError, match=f"{name} is missing"):
            ours.restore(tensors, {other: value for other, value in numbers.items() if other != name})
    torch.testing.assert_close(ours.tensors(), before, rtol=0, atol=0)


def test_the_state_of_another_optimiser_is_refused():
    """SGD's momentum is nothing to AdamW."""
    model = TinyModel()
    sgd = make_optimiser(model, make_params("sgd"))
    train(model, sgd, range(2))
    with pytest.raises(TrialError, match="0 of its 5 tensors"):
        make_optimiser(model, make_params("adamw")).restore(sgd.tensors(), sgd.numbers())
