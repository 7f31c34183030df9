"""Scores, bootstrap intervals and paired tests."""
