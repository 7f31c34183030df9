"""General data sets in memory."""
