"""What a run's probabilities are worth, and how they are made honest after training."""
