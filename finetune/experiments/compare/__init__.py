"""Two results on the same images."""
