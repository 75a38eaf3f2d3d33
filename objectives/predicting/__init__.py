"""Exported models and what several folds say together."""
