"""Exported age models: the measured part of their card, and other faces that they are run on."""
