"""Fine-grained recognition: readers of birds and cars, heads for look-alike classes, a study, its report."""
