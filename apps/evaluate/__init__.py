"""Scoring an exported model on a data set."""
