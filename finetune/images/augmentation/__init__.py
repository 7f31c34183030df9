"""Augmentation: named policies, each a pure function of (prepared image, seed)."""
