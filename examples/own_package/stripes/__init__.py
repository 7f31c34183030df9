"""Which way do the stripes run? A task and a head outside the toolkit."""
