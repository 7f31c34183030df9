"""Exported category models: the measured part of their card, and other images that they are run on."""
