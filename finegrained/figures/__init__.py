"""Figures of a fine-grained result."""
