"""The local web page: what it shows, and what it refuses."""
