"""Commands, options and the console."""
