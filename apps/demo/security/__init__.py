"""What the demo lets in, and how it answers."""
