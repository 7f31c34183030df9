"""Many models trained together."""
