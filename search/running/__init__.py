"""A study while it runs: the run, its coordinator, its workers and where they live, checkpoints and publishing."""
