"""Whether this GPU trains, tests and serves as it should: twelve checks for the machine of the user."""
