"""Age data sets: readers, label policies and folds."""
