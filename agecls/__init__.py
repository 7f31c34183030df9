"""Facial age groups: readers, subject-exclusive folds, ordinal scores, cross-validation and its report."""
