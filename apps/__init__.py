"""The toolkit's doors for people: the command line and the programs behind it."""
