"""The age audit: predicted ages against true ones at a legal age, whatever system predicted them."""
