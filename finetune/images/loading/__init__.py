"""The way of a batch from the process that makes it to the device that learns from it."""
