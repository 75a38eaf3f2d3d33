"""Projections of the ledger: MLflow and Neptune."""
