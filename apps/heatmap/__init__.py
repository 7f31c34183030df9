"""Softmax heat maps as a page and as a figure."""
