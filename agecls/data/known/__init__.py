"""Published sets of faces as they lie on a user's disk: their file names, lists and .mat files."""
