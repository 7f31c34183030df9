"""Exported models run on images, folders and videos."""
