"""Scores of predicted classes, against counts by hand."""

import numpy as np
import pytest

from objectives.metrics import METRICS

LABELS, PREDICTED = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])


def test_accuracy_is_the_share_of_right_rows():
    """Four of six."""
    assert METRICS["accuracy"].function(LABELS, PREDICTED) == pytest.approx(4 / 6)


def test_macro_f1_weighs_all_classes_alike():
    """F1 is 2/3 for class 0, 4/5 for class 1, and 0, not an error, for class 2 that is never predicted."""
    assert METRICS["macro_f1"].function(LABELS, PREDICTED) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)


def test_a_class_that_occurs_nowhere_does_not_count():
    """A fold without rows of a class is not scored by it."""
    assert METRICS["macro_f1"].function(np.array([0, 3]), np.array([0, 3])) == 1.0


def test_an_equal_score_is_no_improvement():
    """Of equals, the first stays the best."""
    assert METRICS["accuracy"].improves(0.6, 0.5)
    assert not METRICS["accuracy"].improves(0.5, 0.5)
