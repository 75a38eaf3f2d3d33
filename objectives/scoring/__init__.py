"""Metrics, and the calibration of probabilities."""
