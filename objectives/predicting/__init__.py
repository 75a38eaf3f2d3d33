"""Exported models, and the predictions of several folds together."""
