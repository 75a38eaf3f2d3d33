"""What leaves a study: model folders, predictions, MLflow models, recorded curves."""
