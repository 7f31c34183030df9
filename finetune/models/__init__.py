"""Backbones, their weights, heads, the classifier and saved models."""
