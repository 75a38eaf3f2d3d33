"""Linear models on rows of features: a support vector machine with balanced classes, or ridge regression."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

Features = Any  # (rows, features): an array, or one of scipy's sparse matrices
Labels = NDArray[np.int64] | NDArray[np.float64]

# A margin is no probability. With this factor the softmax of margins was calibrated best on kev_cwe (4.4), sms_spam
# (3.1) and biotools_topics (6.7).
SHARPNESS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A fitted model; a class that the training rows lack has the intercept -inf."""

    weights: NDArray[np.float64]  # (outputs, features)
    intercepts: NDArray[np.float64]  # (outputs,)

    def predict(self, features: Features) -> NDArray[np.float32]:
        """Return probabilities, (rows, classes), or numbers, (rows, 1), where there is one output."""
        margins = np.asarray(features @ self.weights.T) + self.intercepts
        if len(self.intercepts) == 1:
            return margins.astype(np.float32)
        probabilities: NDArray[np.float64] = softmax(SHARPNESS * margins, axis=1)
        return probabilities.astype(np.float32)


def fit_linear(features: Features, labels: Labels, *, num_outputs: int, seed: int) -> Linear:
    """Fit numbers if there is one output, else classes, each as important as the others; the same for the same seed."""
    if num_outputs == 1:
        ridge = Ridge(alpha=1.0, random_state=seed).fit(features, labels)
        return Linear(weights=ridge.coef_.reshape(1, -1), intercepts=np.array([ridge.intercept_]))
    weights = np.zeros((num_outputs, features.shape[1]))
    intercepts = np.full(num_outputs, -np.inf)
    present = np.unique(labels)
    if len(present) == 1:
        intercepts[present] = 0.0
        return Linear(weights=weights, intercepts=intercepts)
    model = LinearSVC(C=1.0, tol=1e-2, class_weight="balanced", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged is good enough for a yardstick
        model.fit(features, labels)
    margins, offsets = model.coef_, model.intercept_
    if len(present) == 2:  # one margin, that of the second class
        margins, offsets = np.vstack([-margins, margins]), np.concatenate([-offsets, offsets])
    weights[present], intercepts[present] = margins, offsets
    return Linear(weights=weights, intercepts=intercepts)
