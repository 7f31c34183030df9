"""Which way do the stripes run? A task, a head and a logger outside the toolkit."""
