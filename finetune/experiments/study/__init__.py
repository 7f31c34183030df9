"""Many losses by many seeds."""
