"""The losses against formulas written out in float64, torch's own and published numbers; their limits and extremes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, rel_entr, softmax
from scipy.stats import entropy
from torch.nn import functional

from fold_search.objectives.errors import DataError
from fold_search.objectives.loss_params import REGRESSION_LOSSES, SMOOTHABLE
from fold_search.objectives.params import TrainingParams
from fold_search.objectives.training.losses import Loss, build_loss
from fold_search.objectives.training.weights import check_loss, class_weights

NAMES = ("barley", "corn", "grain", "wheat")
COUNTS = np.array([100, 40, 5, 0])
LOGITS = torch.tensor(np.random.default_rng(0).normal(scale=3, size=(6, 4)))
LABELS = torch.tensor([0, 1, 2, 3, 0, 0])
GIVEN = {"barley": 0.5, "corn": 1.0, "grain": 2.0, "wheat": 1.5}
PRIOR = {"barley": 0.7, "corn": 0.1, "grain": 0.2, "wheat": 0.0}
CLASS_LOSSES = (*SMOOTHABLE, "dice")


def loss_of(counts: np.ndarray = COUNTS, **settings: object) -> Loss:
    params = TrainingParams(**settings)
    names = [] if params.loss in REGRESSION_LOSSES else NAMES[: len(counts)]
    counts = counts if names else np.empty(0, np.int64)
    return build_loss(params, counts=counts, label_names=names, device=torch.device("cpu"))


def by_hand(row_loss, smoothing: float = 0.0, prior=(0.25, 0.25, 0.25, 0.25)) -> list[float]:
    """Return `row_loss(z, y, q)` of every row, with q the smoothed target."""
    rows = zip(LOGITS.numpy(), LABELS.tolist(), strict=True)
    return [row_loss(z, y, (1 - smoothing) * np.eye(4)[y] + smoothing * np.array(prior)) for z, y in rows]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", GIVEN])
def test_focal_loss_is_its_formula(gamma, smoothing, weights):
    """Each row: its label's weight times the smoothed focal sum over all classes."""
    loss = loss_of(loss="focal", focal_gamma=gamma, label_smoothing=smoothing, class_weights=weights)

    def row_loss(z, y, q):
        p = np.exp(z) / np.exp(z).sum()
        weight = 1 if weights == "none" else list(GIVEN.values())[y]
        return weight * sum(-q[c] * (1 - p[c]) ** gamma * math.log(p[c]) for c in range(4))

    assert loss.rows(LOGITS, LABELS).tolist() == pytest.approx(by_hand(row_loss, smoothing), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_dice_loss_is_its_formula(alpha, smoothing):
    """One Dice coefficient per row and class, and each row's mean distance from 1."""
    loss = loss_of(loss="dice", dice_alpha=alpha, dice_smoothing=smoothing)

    def row_loss(z, y, q):
        w = [p * (1 - p) ** alpha for p in softmax(z)]
        own = 1 - (2 * w[y] + smoothing) / (w[y] + 1 + smoothing)
        return (own + sum(1 - smoothing / (w[c] + smoothing) for c in range(4) if c != y)) / 4

    assert loss.rows(LOGITS, LABELS).tolist() == pytest.approx(by_hand(row_loss), rel=1e-12)


@pytest.mark.parametrize(
    ("alpha", "smoothing", "label", "published"),
    [
        (0.0, 1.0, 0, 0.3655662772144166),
        (0.01, 1.0, 1, 1.1103550009550558),
        (0.5, 0.1, 0, 1.7442872997009302),
        (0.5, 0.1, 1, 2.7132122610436316),
    ],
)
def test_dice_loss_is_the_papers_for_one_row(alpha, smoothing, label, published):
    """ShannonAI/dice_loss_for_NLP adds up the classes whose mean we take."""
    loss = loss_of(loss="dice", dice_alpha=alpha, dice_smoothing=smoothing)
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0]], dtype=torch.float64)
    assert loss.rows(logits, torch.tensor([label])).item() * 4 == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ldam_is_its_formula(smoothing):
    """Cross entropy with the label's scaled cosine less its margin, m (n_min / n)^(1/4); no row counts as one."""
    loss = loss_of(loss="ldam", ldam_margin=0.4, ldam_scale=20.0, label_smoothing=smoothing)

    def row_loss(z, y, q):
        less = z.copy()
        less[y] -= 20 * 0.4 / [100, 40, 5, 1][y] ** 0.25
        return q @ (logsumexp(less) - less)

    assert loss.rows(LOGITS, LABELS).tolist() == pytest.approx(by_hand(row_loss, smoothing), rel=1e-12)


@pytest.mark.parametrize(("progress", "weighted"), [(0.0, False), (0.79, False), (0.8, True), (1.0, True)])
def test_ldams_class_weights_wait(progress, weighted):
    """Deferred re-weighting begins once the share of epochs that lie behind reaches `deferral`."""
    settings = {"loss": "ldam", "deferral": 0.8}
    plain = loss_of(**settings).rows(LOGITS, LABELS)
    losses = loss_of(class_weights=GIVEN, **settings).rows(LOGITS, LABELS, progress=progress)
    factors = [list(GIVEN.values())[label] if weighted else 1.0 for label in LABELS]
    assert (losses / plain).tolist() == pytest.approx(factors)


@pytest.mark.parametrize("tau", [0.5, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logit_adjustment_is_its_formula(tau, smoothing):
    """Equation 10 of Menon et al. 2021: log(sum over c of (prior_c / prior_y)^tau exp(z_c - z_y)), smoothed over y."""
    loss = loss_of(loss="logit_adjusted", adjustment_tau=tau, label_smoothing=smoothing)
    n = [100, 40, 5, 1]

    def row_loss(z, y, q):
        return sum(
            q[label] * math.log(sum((n[c] / n[label]) ** tau * math.exp(z[c] - z[label]) for c in range(4)))
            for label in range(4)
        )

    assert loss.rows(LOGITS, LABELS).tolist() == pytest.approx(by_hand(row_loss, smoothing), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(
    ("prior", "shares"),
    [("uniform", [0.25] * 4), ("class_frequency", np.array([100, 40, 5, 1]) / 146), (PRIOR, [0.7, 0.1, 0.2, 0.0])],
)
def test_kl_divergence_is_scipys(smoothing, prior, shares):
    """The relative entropy of the smoothed target to the prediction."""
    loss = loss_of(loss="kl_divergence", label_smoothing=smoothing, smoothing_prior=prior)
    expected = by_hand(lambda z, y, q: entropy(q, softmax(z)), smoothing, shares)
    assert loss.rows(LOGITS, LABELS).tolist() == pytest.approx(expected, rel=1e-9)


def test_kl_divergence_is_cross_entropy_less_the_targets_entropy():
    """With a uniform prior it lies below torch's smoothed cross entropy by a constant."""
    losses = loss_of(loss="kl_divergence", label_smoothing=0.2).rows(LOGITS, LABELS)
    smoothed = functional.cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(losses, smoothed - entropy([0.85, 0.05, 0.05, 0.05]))


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "cross_entropy"},
        {"loss": "focal", "focal_gamma": 0.0},
        {"loss": "ldam", "ldam_margin": 0.0},
        {"loss": "logit_adjusted", "adjustment_tau": 0.0},
        {"loss": "logit_adjusted", "counts": np.array([7, 7, 7, 7])},
        {"loss": "cross_entropy", "class_weights": "class_balanced", "class_balanced_beta": 0.0},
    ],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_cross_entropy_is_torchs_and_the_limit_of_the_others(settings, smoothing):
    """Without gamma, margin, tau or imbalance every loss with smoothing is torch's cross entropy with smoothing."""
    losses = loss_of(label_smoothing=smoothing, **settings).rows(LOGITS, LABELS)
    expected = functional.cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)


def test_kl_divergence_without_smoothing_is_cross_entropy():
    """0 log 0 is 0."""
    losses = loss_of(loss="kl_divergence").rows(LOGITS, LABELS)
    torch.testing.assert_close(losses, functional.cross_entropy(LOGITS, LABELS, reduction="none"))


def test_weighted_cross_entropy_is_torchs():
    """Class weights multiply the rows' losses."""
    losses = loss_of(class_weights=GIVEN).rows(LOGITS, LABELS)
    weight = torch.tensor([GIVEN[name] for name in NAMES], dtype=torch.float64)
    torch.testing.assert_close(losses, functional.cross_entropy(LOGITS, LABELS, weight=weight, reduction="none"))


def test_binary_focal_loss_is_the_papers():
    """Lin et al. 2017, equation 5, with alpha for the rarer class and 1 - alpha for the other."""
    loss = loss_of(np.array([90, 10]), loss="focal", focal_gamma=2.0, class_weights=0.25)
    x = torch.tensor([-3.0, 0.5, 2.0], dtype=torch.float64)
    p = 1 / (1 + np.exp(-x.numpy()))
    losses = loss.rows(torch.stack([torch.zeros(3), x], dim=1), torch.tensor([1, 1, 0]))
    expected = [-0.25 * (1 - p[0]) ** 2 * np.log(p[0]), -0.25 * (1 - p[1]) ** 2 * np.log(p[1])]
    assert losses.tolist() == pytest.approx([*expected, -0.75 * p[2] ** 2 * np.log(1 - p[2])])


def test_r_drop_is_half_of_both_divergences():
    """It is 0 for equal passes, and the squared difference for a numeric label."""
    loss, other = loss_of(loss="focal", rdrop_alpha=3.0), LOGITS.flip(0)
    p, r = softmax(LOGITS.numpy(), axis=1), softmax(other.numpy(), axis=1)
    expected = (rel_entr(p, r).sum(axis=1) + rel_entr(r, p).sum(axis=1)) / 2
    assert loss.divergence(LOGITS, other).numpy() == pytest.approx(expected, rel=1e-9)
    assert loss.divergence(LOGITS, LOGITS).tolist() == [0.0] * 6
    assert loss_of(loss="mse").divergence(torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [2.0]])).tolist() == [9, 0]


def test_regression_losses_are_their_formulas():
    """Squares, absolute values, and Huber's joint of both at delta."""
    outputs, targets = torch.tensor([[0.5], [-3.0], [2.0]]), torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    assert loss_of(loss="mse").rows(outputs, targets).tolist() == [0.25, 16.0, 0.0]
    assert loss_of(loss="mae").rows(outputs, targets).tolist() == [0.5, 4.0, 0.0]
    assert loss_of(loss="huber", huber_delta=1.5).rows(outputs, targets).tolist() == [0.125, 1.5 * (4 - 0.75), 0.0]


@pytest.mark.parametrize(
    "settings",
    [
        *({"loss": loss, "label_smoothing": 0.1, "class_weights": GIVEN} for loss in SMOOTHABLE),
        *({"loss": "focal", "focal_gamma": gamma} for gamma in (0.1, 1.0, 3.0)),
        *({"loss": "dice", "dice_alpha": alpha} for alpha in (0.0, 0.01, 1.0)),
        {"loss": "kl_divergence", "label_smoothing": 0.3, "smoothing_prior": PRIOR},
    ],
)
def test_gradients_are_those_of_the_formula(settings):
    """Differences in float64 agree with backward, for the loss and for R-Drop."""
    loss, logits = loss_of(**settings), LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.rows(x, LABELS), (logits,))
    assert torch.autograd.gradcheck(loss.divergence, (logits, LOGITS.flip(0).requires_grad_()))


@pytest.mark.parametrize("loss", REGRESSION_LOSSES)
def test_regression_gradients_are_those_of_the_formula(loss):
    """Differences in float64 agree with backward."""
    outputs, targets = LOGITS[:, :1].clone().requires_grad_(), LOGITS[:, 1]
    assert torch.autograd.gradcheck(lambda x: loss_of(loss=loss).rows(x, targets), (outputs,))


EXTREMES = [
    *({"loss": loss, "label_smoothing": 0.1, "class_weights": "inverse_frequency"} for loss in SMOOTHABLE),
    *({"loss": "focal", "focal_gamma": gamma} for gamma in (0.1, 0.5, 10.0)),
    *({"loss": "dice", "dice_alpha": alpha} for alpha in (0.0, 0.01, 0.5, 10.0)),
    {"loss": "kl_divergence", "label_smoothing": 0.1, "smoothing_prior": PRIOR},
    {"loss": "kl_divergence", "label_smoothing": 0.1, "smoothing_prior": "class_frequency"},
]


@pytest.mark.parametrize("settings", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_give_finite_losses_and_gradients(settings, dtype):
    """Every row of four logits from -1e4 to 1e4, each a batch's only class or one of many, also one without rows."""
    loss = loss_of(**settings)
    corners = torch.tensor(list(itertools.product([-1e4, -20.0, 0.0, 1e4], repeat=4)), dtype=dtype)
    for label, batch in [*itertools.product(range(4), [corners]), (3, corners[:1]), (2, corners[37:38])]:
        logits, other = batch.clone().requires_grad_(), batch.flip(1).requires_grad_()
        losses = loss.rows(logits, torch.full((len(batch),), label))
        divergence = loss.divergence(logits, other)
        torch.autograd.backward(losses.sum() + divergence.sum())
        assert losses.dtype == divergence.dtype == torch.float32
        assert losses.shape == divergence.shape == (len(batch),)
        for values in (losses, divergence, logits.grad, other.grad):
            assert torch.isfinite(values).all()


@pytest.mark.parametrize(("gap", "rest"), [(20.0, math.exp(-20)), (60.0, math.exp(-60)), (1e4, 0.0)])
def test_near_certain_rows_are_exact_in_float32(gap, rest):
    """What is left of a probability that rounds to 1 still counts: (1 - p)^alpha p of Dice, (1 - p)^gamma of focal."""
    logits, labels = torch.tensor([[gap, 0.0]]), torch.tensor([0])
    counts = np.array([1, 1])
    w = rest**0.01
    dice = loss_of(counts, loss="dice", dice_alpha=0.01, dice_smoothing=1.0).rows(logits, labels)
    assert dice.item() == pytest.approx((1 - (2 * w + 1) / (w + 2)) / 2, rel=1e-5)
    focal = loss_of(counts, loss="focal", focal_gamma=0.5).rows(logits, torch.tensor([1]))
    assert focal.item() == pytest.approx(gap, rel=1e-6)


@given(
    logits=st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4), min_size=1, max_size=4),
    label=st.integers(0, 3),
    alpha=st.floats(0, 10),
    smoothing=st.floats(0.001, 100),
)
def test_dice_lies_between_0_and_1(logits, label, alpha, smoothing):
    """Whatever the logits, row by row."""
    loss = loss_of(loss="dice", dice_alpha=alpha, dice_smoothing=smoothing)
    losses = loss.rows(torch.tensor(logits), torch.full((len(logits),), label))
    assert ((losses >= 0) & (losses <= 1)).all()


@given(loss=st.sampled_from(CLASS_LOSSES), order=st.permutations(range(6)), rows=st.integers(1, 6))
def test_rows_stand_alone(loss, order, rows):
    """A row's loss depends on no other row of its batch."""
    built, chosen = loss_of(loss=loss, class_weights="class_balanced"), torch.tensor(order[:rows])
    torch.testing.assert_close(built.rows(LOGITS[chosen], LABELS[chosen]), built.rows(LOGITS, LABELS)[chosen])


def test_class_weights_are_those_of_the_papers():
    """Inverse frequency, and (1 - beta) / (1 - beta^n) of Cui et al. 2019, up to their common factor."""
    counts = np.array([100, 10, 1])
    inverse = class_weights(counts, params=TrainingParams(class_weights="inverse_frequency"), label_names=NAMES[:3])
    params = TrainingParams(loss="ldam", class_weights="class_balanced", class_balanced_beta=0.9)
    balanced = class_weights(counts, params=params, label_names=NAMES[:3])
    assert (inverse / inverse[2]).tolist() == pytest.approx([0.01, 0.1, 1.0])
    assert (balanced / balanced[2]).tolist() == pytest.approx([0.1 / (1 - 0.9**100), 0.1 / (1 - 0.9**10), 1.0])


@given(
    counts=st.lists(st.integers(0, 10_000), min_size=2, max_size=9).filter(any),
    kind=st.sampled_from(["inverse_frequency", "class_balanced"]),
    beta=st.sampled_from([0.0, 0.9, 0.9999]),
)
def test_mean_weight_of_a_training_row_is_1(counts, kind, beta):
    """Weights move attention between classes and leave the loss's size alone, also with classes that have no row."""
    params = TrainingParams(class_weights=kind, class_balanced_beta=beta)
    weights = class_weights(np.array(counts), params=params, label_names=list("abcdefghi"[: len(counts)]))
    assert np.isfinite(weights).all()
    assert np.average(weights, weights=counts) == pytest.approx(1)


@pytest.mark.parametrize(
    ("counts", "expected"), [([90, 10], [0.2, 0.8]), ([10, 90], [0.8, 0.2]), ([50, 50], [0.2, 0.8])]
)
def test_one_number_weighs_the_rarer_of_two_classes(counts, expected):
    """The second by name where both have as many rows."""
    params = TrainingParams(loss="focal", class_weights=0.8)
    assert class_weights(np.array(counts), params=params, label_names=("no", "yes")).tolist() == pytest.approx(expected)


def test_a_sampler_does_not_change_which_class_is_the_rarer():
    """Alpha stays with the class that has fewer rows in the data, even where both have as many after sampling."""
    params = TrainingParams(loss="focal", class_weights=0.75)
    even, before = np.array([10, 10]), np.array([3, 10])
    weights = class_weights(even, params=params, label_names=("no", "yes"), before=before)
    assert weights.tolist() == [0.75, 0.25]


@pytest.mark.parametrize("loss", ["dice", "logit_adjusted", "kl_divergence", *REGRESSION_LOSSES])
def test_losses_without_class_weights_ignore_them(loss):
    """A search may try these beside losses that are weighted."""
    assert loss_of(loss=loss, class_weights="inverse_frequency").weights is None


SCALAR = "expected a number between 0 and 1: the weight of the rarer class; the other class gets 1 minus that weight"
REFUSED_WEIGHTS = [
    (GIVEN | {"Grian": 1.0}, NAMES, "found 'Grian', which is not a label of the data; did you mean 'grain'?"),
    ({"x": 1.0}, NAMES, "found 'x', which is not a label of the data; there are 'barley', 'corn', 'grain', 'wheat'"),
    ({"corn": 1.0}, NAMES[:2], "found no entry for 'barley', expected one for each of the labels"),
    (dict.fromkeys(NAMES, 0.0), NAMES, "found weights that are all 0, expected at least one above 0"),
    (
        0.25,
        NAMES,
        "found the one number 0.25 for 4 classes: that would only rescale the loss; "
        "expected {label: weight}, class_balanced or inverse_frequency",
    ),
    (1.0, NAMES[:2], f"found 1, {SCALAR}"),
    (math.nan, NAMES[:2], f"found nan, {SCALAR}"),
]
REFUSED_PRIORS = [
    (PRIOR | {"corm": 0.0}, "found 'corm', which is not a label of the data; did you mean 'corn'?"),
    ({"corn": 1.0}, "found no entry for 'barley', 'grain', 'wheat', expected one for each of the labels"),
    (PRIOR | {"corn": 0.2}, "found shares that sum to 1.1, expected 1"),
]


def refusal(names, *, task="classification", **settings: object) -> str | None:
    """What is said against a loss and its settings, if anything is."""
    try:
        check_loss(TrainingParams(**settings), task=task, label_names=names)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("weights", "names", "message"), REFUSED_WEIGHTS)
def test_weights_that_do_not_fit_the_labels_are_refused(weights, names, message):
    """One line: the key, what was found, what was expected."""
    assert refusal(names, class_weights=weights) == f"training.class_weights: {message}"


@pytest.mark.parametrize(("prior", "message"), REFUSED_PRIORS)
def test_priors_that_do_not_fit_the_labels_are_refused(prior, message):
    """A share for every label, and 1 together."""
    assert refusal(NAMES, smoothing_prior=prior) == f"training.smoothing_prior: {message}"


@pytest.mark.parametrize("key", ["class_weights", "smoothing_prior"])
@pytest.mark.parametrize("number", [-0.1, math.nan, math.inf])
def test_a_label_with_an_impossible_number_is_named(key, number):
    """Neither weights nor shares are below 0 or without bounds."""
    expected = f"training.{key}.corn: found {number:g}, expected a number of at least 0"
    assert refusal(NAMES, **{key: PRIOR | {"corn": number}}) == expected


def test_the_loss_must_fit_the_kind_of_label():
    """Classes and numbers have different losses."""
    assert refusal((), task="regression", loss="focal") == (
        "training.loss: found focal for a numeric label; expected one of mse, mae, huber"
    )
    assert refusal(NAMES, loss="huber") == (
        "training.loss: found huber, which is for a numeric label; expected a loss for 4 classes, such as cross_entropy"
    )


@pytest.mark.parametrize(
    ("settings", "task", "names"),
    [
        ({"loss": "focal", "class_weights": GIVEN, "smoothing_prior": PRIOR}, "classification", NAMES),
        ({"loss": "focal", "class_weights": 0.25}, "classification", NAMES[:2]),
        ({"loss": "mae"}, "regression", ()),
    ],
)
def test_settings_that_fit_the_labels_pass(settings, task, names):
    """Weights and priors for every label, one number for two classes, a numeric label's loss."""
    assert refusal(names, task=task, **settings) is None
