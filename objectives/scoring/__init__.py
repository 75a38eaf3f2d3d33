"""Metrics, and what calibration makes of predictions."""
