"""The training run: its configuration, objective, loop and checkpoints."""
