"""Drawn data sets in the layouts of CUB-200-2011 and Stanford Cars."""
