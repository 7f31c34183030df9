"""Drawn faces in Adience's own folder layout."""
