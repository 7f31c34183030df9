"""Figures and pages: the canvas, heat maps, galleries, curves, Markdown."""
