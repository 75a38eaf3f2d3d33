"""What the race computes with: the fold x epoch matrix and the models of what is not trained yet."""
