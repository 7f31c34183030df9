"""Arms by seeds: what is compared in a study of losses, its cells, their statistics, pictures and report."""
