"""Decoded images kept in a file between runs: how they are read, what the file holds, and its size limit."""
