"""A frozen backbone's features: computed once, kept for the epochs, shared by runs."""
