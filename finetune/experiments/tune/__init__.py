"""Learning rates, weight decay and epochs found on validation images alone; the test part is never read."""
