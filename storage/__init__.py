"""The outside world: SQL, Optuna's storage, trackers, files. Knows no torch."""
