"""Simple models on the same folds as the trials: what fine-tuning has to beat."""
