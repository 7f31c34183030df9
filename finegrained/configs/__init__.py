"""Recipes as YAML files, each with its reported score in the head."""
