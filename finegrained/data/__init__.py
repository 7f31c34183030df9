"""Fine-grained data sets: readers, splits and class names."""
