"""Hyperparameter search for fine-tuned classifiers on imbalanced data; the fold is the unit of work."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("fold-search")
