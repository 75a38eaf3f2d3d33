"""The training of one fold: loop, optimisers, losses, sampling, checkpoints."""
