"""torch modules: encoders and classifiers. Knows nothing of training, Optuna, SQL or trackers."""
