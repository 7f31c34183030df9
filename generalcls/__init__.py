"""General image classification: which loss should I use? Studies with equal budgets and paired seeds."""
