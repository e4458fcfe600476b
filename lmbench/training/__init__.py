"""Training: optimizers, the loop, and the sets of runs that a study needs."""
