"""Measurements: each prints a table and a ratio; what they gave stands in docs/performance.md."""
