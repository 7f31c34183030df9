"""The heads of fine-grained recognition."""
